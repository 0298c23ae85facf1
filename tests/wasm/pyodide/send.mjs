// One mail, from connecting to QUIT.

import { Connection } from "./connection.mjs";

export async function send(pyodide, job) {
  const { host, port, tls, ca, servername, protocol, domain, user, password, plain, mails, timeout } = job;
  const secure = { ca, servername };
  const connection = await Connection.open(pyodide, {
    host, port, protocol, domain, timeout, tls: tls === "implicit" ? secure : undefined,
  });
  try {
    await connection.run((core) => core.greet(), timeout);
    await connection.run((core) => core.hello(tls === "starttls" ? "STARTTLS" : user ? "AUTH" : undefined), timeout);
    if (tls === "starttls") {
      await connection.startTls(secure, timeout);
      await connection.run((core) => core.hello(user ? "AUTH" : undefined), timeout);
    }
    if (user) await connection.run((core) => core.auth.callKwargs(user, password, { plain }), timeout);
    const outcomes = [];
    for (const { sender, recipients, message, chunking, pieces } of mails) {
      const to = pyodide.toPy(recipients);
      outcomes.push(
        await connection.run((core) => core.send.callKwargs(sender, to, message, { chunking, pieces }), timeout),
      );
    }
    await connection.run((core) => core.quit(), timeout);
    return outcomes;
  } finally {
    connection.close();
  }
}
