// A mail connection whose socket belongs to JavaScript. Node reads, writes and does TLS; smtpconn's core, in Pyodide,
// says what to write and what the answers mean.

import { once } from "node:events";
import net from "node:net";
import tls from "node:tls";

/** What became of a conversation that failed: the class of the error, its stage, and a verdict for each recipient. */
export class SmtpFailure extends Error {
  constructor(outcome) {
    super(outcome.message);
    Object.assign(this, outcome);
  }
}

export class Connection {
  #socket;
  #waiting = null;
  #due = Infinity;
  #reserve = 0;

  constructor(pyodide, { protocol = "smtp", domain }) {
    this.core = pyodide.pyimport("bridge").Conversation(protocol, domain);
    this.pump = this.core.pump;
  }

  /** Connects. With `tls` ({ ca, servername }) inside TLS; Node checks chain and name before an octet of SMTP. */
  static async open(pyodide, { host, port, tls: secure, timeout, ...session }) {
    const connection = new Connection(pyodide, session);
    if (secure) {
      const socket = tls.connect({ host, port, minVersion: "TLSv1.2", ...secure });
      await connected(socket, "secureConnect", timeout);
      connection.core.secured();
      connection.#own(socket);
    } else {
      const socket = net.connect({ host, port });
      await connected(socket, "connect", timeout);
      connection.#own(socket);
    }
    return connection;
  }

  /** Runs one flow: `begin` starts it; at most `timeout` milliseconds. Rejects with an SmtpFailure. */
  async run(begin, timeout) {
    this.#due = Date.now() + timeout;
    this.#reserve = Math.min(60_000, timeout / 4); // an end of data is not written with less left for its reply
    const timer = setTimeout(() => {
      this.pump.timed_out();
      this.#turn();
    }, timeout);
    try {
      await new Promise((resolve, reject) => {
        begin(this.core);
        this.#waiting = { resolve, reject };
        this.#turn();
      });
    } finally {
      clearTimeout(timer);
      this.#waiting = null;
    }
    const outcome = JSON.parse(this.core.outcome());
    if (!this.pump.usable) this.close();
    if (outcome.error) throw new SmtpFailure(outcome);
    return outcome;
  }

  /** STARTTLS, between two flows: the core reads the 220, Node does TLS, and then it is EHLO's turn. */
  async startTls(secure, timeout) {
    await this.run((core) => core.starttls(), timeout); // octets behind the 220 are a StartTlsInjectionError here
    const plain = this.#socket.pause();
    for (const event of ["data", "end", "error", "close", "drain"]) plain.removeAllListeners(event);
    const socket = tls.connect({ socket: plain, minVersion: "TLSv1.2", ...secure });
    await connected(socket, "secureConnect", timeout, () => plain.destroy());
    this.pump.upgraded();
    this.#own(socket);
  }

  close() {
    this.#socket.destroy();
  }

  #own(socket) {
    this.#socket = socket;
    const told = (tell) => (argument) => {
      tell(argument);
      this.#turn();
    };
    socket.on("data", told((octets) => this.core.received(new Uint8Array(octets))));
    socket.on("end", told(() => this.pump.ended()));
    socket.on("error", told((error) => this.pump.ended(error.message)));
    socket.on("close", told(() => this.pump.ended("closed")));
    socket.on("drain", told(() => {}));
  }

  /** Writes what there is to write, and settles the promise of a flow that is finished. */
  #turn() {
    while (!this.#socket.writableNeedDrain) {
      if (this.pump.commits && this.#due - Date.now() < this.#reserve) this.pump.timed_out();
      const proxy = this.pump.to_write();
      const octets = proxy.toJs();
      proxy.destroy();
      if (octets.length === 0) break;
      this.#socket.write(octets);
      this.pump.wrote(octets.length);
    }
    if (this.#waiting && this.pump.finished) this.#waiting.resolve();
  }
}

async function connected(socket, event, timeout, otherwise = () => {}) {
  const timer = setTimeout(() => socket.destroy(new Error("the deadline has passed")), timeout);
  try {
    await once(socket, event); // rejects with the socket's error: refused, not trusted, too late
  } catch (error) {
    socket.destroy();
    otherwise();
    throw error;
  } finally {
    clearTimeout(timer);
  }
}
