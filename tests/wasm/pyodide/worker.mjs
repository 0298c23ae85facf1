// Takes jobs for `send`, one JSON object a line, and answers each with a line: for the tests, so that Pyodide starts once.

import { createInterface } from "node:readline";
import { loadSmtpconn } from "./load.mjs";
import { send } from "./send.mjs";

const answer = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);

const pyodide = await loadSmtpconn(...process.argv.slice(2));
const about = `
import json, sys
from smtpconn.protocol import mechanisms
json.dumps({"python": sys.version, "platform": sys.platform, "pbkdf2": mechanisms.pbkdf2.__name__})
`;
answer(JSON.parse(pyodide.runPython(about)));

for await (const line of createInterface({ input: process.stdin })) {
  const job = JSON.parse(line);
  for (const mail of job.mails) mail.message = new Uint8Array(Buffer.from(mail.message, "base64"));
  try {
    answer({ outcomes: await send(pyodide, job) });
  } catch (error) {
    const { error: name = error.type ?? error.code ?? error.name, stage, recipients, message } = error;
    answer({ error: name, stage, recipients, message });
  }
}
