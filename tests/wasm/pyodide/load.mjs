// Pyodide with a wheel of smtpconn in it, and Python modules of one's own beside it.

import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import { loadPyodide } from "pyodide";

export async function loadSmtpconn(wheel, ...modules) {
  const pyodide = await loadPyodide({ stdout: console.error });
  // A copy, because Pyodide does not take Node's Buffer for the Uint8Array that it is.
  pyodide.unpackArchive(new Uint8Array(await readFile(wheel)), "wheel");
  pyodide.FS.mkdir("/modules");
  for (const module of modules) pyodide.FS.writeFile(`/modules/${basename(module)}`, await readFile(module));
  pyodide.runPython("import sys; sys.path.append('/modules')");
  return pyodide;
}
