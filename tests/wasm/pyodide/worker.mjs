// Takes jobs for `send`, one JSON object a line, and answers each with a line: for the tests, so that Pyodide starts once.
// A job that is { python: "..." } is answered with what the code gives, which must be JSON.

import { createInterface } from "node:readline";
import { loadSmtpconn } from "./load.mjs";
import { send } from "./send.mjs";

const answer = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);

const pyodide = await loadSmtpconn(...process.argv.slice(2));
answer({ ready: true });

for await (const line of createInterface({ input: process.stdin })) {
  const job = JSON.parse(line);
  if (job.python) {
    answer(JSON.parse(pyodide.runPython(job.python)));
    continue;
  }
  for (const mail of job.mails) mail.message = new Uint8Array(Buffer.from(mail.message, "base64"));
  try {
    answer({ outcomes: await send(pyodide, job) });
  } catch (error) {
    const { error: name = error.type ?? error.code ?? error.name, stage, recipients, message } = error;
    answer({ error: name, stage, recipients, message });
  }
}
