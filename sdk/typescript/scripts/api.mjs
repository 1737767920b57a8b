// Compares the emitted declarations with those in api/, which are the record of the public interface.
// `node scripts/api.mjs --write` takes the emitted ones over.
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";

const declarations = (folder) =>
  readdirSync(folder)
    .filter((name) => name.endsWith(".d.ts"))
    .sort();
const read = (path) => {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
};

const names = [...new Set([...declarations("dist"), ...declarations("api")])];
const changed = names.filter((name) => read(`dist/${name}`) !== read(`api/${name}`));

if (process.argv.includes("--write")) {
  mkdirSync("api", { recursive: true });
  for (const name of declarations("dist")) writeFileSync(`api/${name}`, read(`dist/${name}`));
} else if (changed.length) {
  console.error(`the public interface changed: ${changed.join(", ")}`);
  console.error("If that is meant, run node scripts/api.mjs --write and commit api/.");
  process.exit(1);
} else console.log(`the public interface is that of api/ (${names.length} files)`);
