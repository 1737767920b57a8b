// Takes the addresses of a registry out of the lock file, so that `npm ci` asks the one that is configured.
// `node scripts/lock.mjs --check` only says whether any is left.
import { readFileSync, writeFileSync } from "node:fs";

const files = ["package-lock.json", ...process.argv.slice(2).filter((argument) => !argument.startsWith("--"))];
let found = 0;

for (const file of files) {
  const lock = JSON.parse(readFileSync(file, "utf8"));
  for (const entry of Object.values(lock.packages)) {
    if (!entry.resolved) continue;
    found += 1;
    delete entry.resolved;
  }
  if (!process.argv.includes("--check")) writeFileSync(file, `${JSON.stringify(lock, null, 2)}\n`);
}

if (found && process.argv.includes("--check")) {
  console.error(`${found} entries name a registry: run node scripts/lock.mjs`);
  process.exit(1);
}
