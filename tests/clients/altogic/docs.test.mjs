// The settings and the client at the beginning of docs/protocols/altogic.md. Only the server's address is another.
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { apiKey, start, tokenSecret, until } from "../server.mjs";

const page = readFileSync(new URL("../../../docs/protocols/altogic.md", import.meta.url), "utf8");
const block = (language) => new RegExp(`^\`\`\`${language}\n([\\s\\S]*?)^\`\`\``, "m").exec(page)[1];

test("the client joins, sends, and gets what it sent", async (t) => {
  const flags = ["--api-key", apiKey, "--token-secret", tokenSecret];
  const server = await start({ flags, config: block("toml") });
  t.after(() => server.stop());

  const source = block("js").replace("https://engine.example.com/", `http://engine.app.localhost:${server.port}/`);
  const child = spawn(process.execPath, ["--import", "./hosts.mjs", "--input-type=module", "--eval", source], {
    cwd: fileURLToPath(new URL(".", import.meta.url)),
    stdio: ["ignore", "pipe", "inherit"],
  });
  t.after(() => child.kill());
  let printed = "";
  child.stdout.on("data", (data) => (printed += data));
  await until("it gets its event", () => printed.includes("technology-chat") && printed.includes("Juma juice"));
});
