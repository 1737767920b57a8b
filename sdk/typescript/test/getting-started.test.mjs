// docs/getting-started.md, as it stands there. Only the ports are others.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { start } from "./real-server.mjs";
import { printed, until } from "./support.mjs";

const chromium = process.env.CHROMIUM ?? "/usr/bin/chromium";
const skip = existsSync(chromium) ? false : `there is no ${chromium}`;

test("the getting-started works as it is written", { skip, timeout: 90_000 }, async (t) => {
  const text = readFileSync(new URL("../../../docs/getting-started.md", import.meta.url), "utf8");
  const blocks = [...text.matchAll(/```(\w+)\n(.*?)```/gs)].map(([, language, code]) => ({ language, code }));
  const block = (language, part) => blocks.find((each) => each.language === language && each.code.includes(part)).code;

  const server = await start();
  t.after(() => server.stop());
  const folder = mkdtempSync(join(tmpdir(), "fanfare-hello-"));
  t.after(() => rmSync(folder, { recursive: true }));

  // Steps 2 and 4: the page, with the channel.
  const channel = block("js", "client.join");
  const page = block("html", "<!doctype")
    .replaceAll("http://127.0.0.1:7070", server.url)
    .replace("</script>", `${channel}</script>`);
  writeFileSync(join(folder, "index.html"), page);
  writeFileSync(join(folder, "notify.mjs"), block("js", "/v1/emit"));

  const web = spawn("python3", ["-u", "-m", "http.server", "0", "--bind", "127.0.0.1"], {
    cwd: folder,
    stdio: ["ignore", "pipe", "ignore"],
  });
  t.after(() => web.kill("SIGKILL"));
  const [, address] = await printed(web, /port (\d+) /);

  const { chromium: browserType } = await import("playwright-core");
  const browser = await browserType.launch({ executablePath: chromium, args: ["--no-sandbox"] });
  t.after(() => browser.close());
  const tab = await browser.newPage();
  await tab.goto(`http://localhost:${address}/`);
  await until(async () => (await tab.textContent("#state")) === "connected");

  // Step 3: the function.
  const run = (...args) =>
    execFileSync(process.execPath, ["notify.mjs", ...args], {
      cwd: folder,
      encoding: "utf8",
      env: { ...process.env, FANFARE_URL: server.url },
    });
  assert.equal(run(), "connections reached: 1\n");
  assert.equal(run("free"), "connections reached: 0\n");

  // Step 4: the function sends to the channel.
  const send = block("sh", "/v1/send").replaceAll("http://127.0.0.1:7070", server.url);
  const receipt = JSON.parse(
    execFileSync("sh", ["-c", send], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }),
  );
  assert.equal(receipt.matched, 1);
  const shown = () => tab.evaluate(() => [...document.querySelectorAll("#events li")].map((item) => item.textContent));
  await until(async () => (await shown()).length === 4);
  assert.deepEqual((await shown()).sort(), [
    'alert: {"text":"Hello"}',
    "here: ann",
    'message: {"text":"from the backend"}',
    'message: {"text":"hi"}',
  ]);
});
