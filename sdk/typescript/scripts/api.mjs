// Compares the emitted declarations with those in api/, which are the record of the public interface: what the exports of
// the package reach. `node scripts/api.mjs --write` takes the emitted ones over.
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";

const read = (path) => {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
};

const { exports } = JSON.parse(readFileSync("package.json", "utf8"));
const reached = new Set(Object.values(exports).flatMap(({ types }) => types?.replace("./dist/", "") ?? []));
// A set goes on with what is added while it is gone through.
for (const name of reached)
  for (const [, other] of read(`dist/${name}`).matchAll(/from "\.\/(.*)\.js"/g)) reached.add(`${other}.d.ts`);

if (process.argv.includes("--write")) {
  rmSync("api", { recursive: true, force: true });
  mkdirSync("api");
  for (const name of reached) writeFileSync(`api/${name}`, read(`dist/${name}`));
}

const changed = [...new Set([...reached, ...readdirSync("api")])].filter(
  (name) => !reached.has(name) || read(`dist/${name}`) !== read(`api/${name}`),
);
if (changed.length) {
  console.error(`the public interface changed: ${changed.join(", ")}`);
  console.error("If that is meant, run node scripts/api.mjs --write and commit api/.");
  process.exit(1);
}
console.log(`the public interface is that of api/ (${reached.size} files)`);
