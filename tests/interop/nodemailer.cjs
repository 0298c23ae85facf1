// Nodemailer's smtp-server on three ports, as `nodemailer.py` configures it: node nodemailer.cjs CONFIGURATION.json
// Every mail that is accepted becomes one line of JSON in the file `ledger`.
"use strict";

const fs = require("fs");
const { createRequire } = require("module");

const configuration = JSON.parse(fs.readFileSync(process.argv[2], "utf-8"));
const { SMTPServer } = createRequire(configuration.root + "/")("smtp-server");

const tls = { key: fs.readFileSync(configuration.key), cert: fs.readFileSync(configuration.certificate) };
const whole = (path) => ({ address: path.address, parameters: path.args || {} });

function listen(port, options) {
    const server = new SMTPServer({
        ...tls,
        name: configuration.hostname,
        hideDSN: false,
        hideREQUIRETLS: false,
        hideENHANCEDSTATUSCODES: false,
        authOptional: true,
        authMethods: ["PLAIN", "LOGIN", "XOAUTH2"],
        size: configuration.size,
        disableReverseLookup: true,
        closeTimeout: 200,
        onAuth(auth, session, callback) {
            const good =
                auth.method === "XOAUTH2"
                    ? auth.username === configuration.user && auth.accessToken === configuration.token
                    : auth.username === configuration.user && auth.password === configuration.password;
            if (good) callback(null, { user: auth.username });
            else if (auth.method === "XOAUTH2") callback(null, { data: configuration.refusal });
            else callback(null, { message: "no" });
        },
        onRcptTo(path, session, callback) {
            callback(path.address.startsWith("unknown@") ? Object.assign(new Error("no such user"), { responseCode: 550 }) : null);
        },
        onData(stream, session, callback) {
            const chunks = [];
            stream.on("data", (chunk) => chunks.push(chunk));
            stream.on("end", () => {
                const mail = {
                    user: session.user || null,
                    secure: session.secure,
                    sender: whole(session.envelope.mailFrom),
                    recipients: session.envelope.rcptTo.map(whole),
                    dsn: session.envelope.dsn || null,
                    requireTLS: session.envelope.requireTLS || false,
                    smtputf8: session.envelope.smtpUtf8 || false,
                    bodyType: session.envelope.bodyType || null,
                    rcptDsn: session.envelope.rcptTo.map((path) => path.dsn || null),
                    content: Buffer.concat(chunks).toString("base64"),
                };
                fs.appendFileSync(configuration.ledger, JSON.stringify(mail) + "\n");
                callback(null, options.lmtp ? session.envelope.rcptTo.map((path) => "kept for " + path.address) : "kept");
            });
        },
        ...options,
    });
    server.on("error", () => {}); // a client that goes in the handshake
    server.listen(port, configuration.host);
}

listen(configuration.port, {});
listen(configuration.tls_port, { secure: true });
listen(configuration.lmtp_port, { lmtp: true });
