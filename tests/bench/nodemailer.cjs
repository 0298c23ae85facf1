// One measurement with Nodemailer: node nodemailer.cjs ROOT JOB, as senders.py does it.
"use strict";
const nodemailer = require("module").createRequire(process.argv[2] + "/")("nodemailer");
const job = JSON.parse(process.argv[3]);

const LINE = "The quick brown fox jumps over the lazy dog, and comes back for more.\r\n";
const HEAD = "From: sender@client.test\r\nTo: list@server.test\r\nSubject: a measurement\r\n\r\n";
const block = LINE.repeat(9) + "." + LINE.slice(1);
const body = block.repeat(Math.floor(job.octets / block.length) + 1).slice(0, Math.max(0, job.octets - HEAD.length - 2));
const raw = Buffer.from(HEAD + body.replace(/[\r\n]+$/, "") + "\r\n");
const envelope = {
    from: "sender@client.test",
    to: Array.from({length: job.recipients}, (_, number) => `r${number}@server.test`),
};

const transport = nodemailer.createTransport({
    host: "127.0.0.1", port: job.port, pool: true, maxConnections: job.connections, maxMessages: Infinity,
    ignoreTLS: true, name: "client.test",
});

async function lane(count) {
    for (let sent = 0; sent < count; sent++) {
        await transport.sendMail({envelope, raw});
    }
}

async function main() {
    const lanes = (count) => Promise.all(Array.from({length: job.connections}, () => lane(count)));
    await lanes(1);
    const before = process.cpuUsage();
    const began = process.hrtime.bigint();
    await lanes(job.mails);
    const seconds = Number(process.hrtime.bigint() - began) / 1e9;
    const used = process.cpuUsage(before);
    const peak = process.resourceUsage().maxRSS;
    process.stdout.write(JSON.stringify({seconds, cpu: (used.user + used.system) / 1e6, peak}));
    transport.close();
}

main().catch((error) => {
    process.stderr.write(`${error.stack}\n`);
    process.exit(1);
});
