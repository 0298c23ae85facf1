// Runs pytest in Pyodide: node tables.mjs REPORT SMTPCONN_WHEEL PYTEST_ARCHIVE TESTS_ARCHIVE TABLES_PY TEST...

import { readFile, writeFile } from "node:fs/promises";
import { loadSmtpconn } from "./load.mjs";

const [report, wheel, pytest, archive, tables, ...tests] = process.argv.slice(2);
const pyodide = await loadSmtpconn(wheel, tables);
pyodide.unpackArchive(new Uint8Array(await readFile(pytest)), "zip", {
  extractDir: pyodide.runPython("import sysconfig; sysconfig.get_path('purelib')"),
});
pyodide.unpackArchive(new Uint8Array(await readFile(archive)), "zip", { extractDir: "/checkout" });
await writeFile(report, pyodide.pyimport("tables").run("/checkout", ...tests));
