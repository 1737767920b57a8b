// Writes src/api.ts from docs/openapi.json, which the server serves at GET /v1/openapi.json.
// `node scripts/types.mjs --check` only says whether it is up to date.
import { readFileSync, writeFileSync } from "node:fs";

const { components, paths } = JSON.parse(readFileSync(new URL("../../../docs/openapi.json", import.meta.url), "utf8"));
const target = new URL("../src/api.ts", import.meta.url);

const comment = (text, indent) => (text ? `${indent}/** ${text.replaceAll("*/", "* /")} */\n` : "");

/** The TypeScript type of a JSON Schema. */
function type(schema, indent = "") {
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.properties) return object(schema, indent);
  if (schema.oneOf) return schema.oneOf.map((one) => type(one, indent)).join(" | ");
  if (Array.isArray(schema.type)) return schema.type.map((one) => type({ ...schema, type: one }, indent)).join(" | ");

  switch (schema.type) {
    case "integer":
    case "number":
      return "number";
    case "string":
      return "string";
    case "boolean":
      return "boolean";
    case "null":
      return "null";
    case "array": {
      const item = type(schema.items, indent);
      return item.includes(" ") ? `readonly (${item})[]` : `readonly ${item}[]`;
    }
    case "object":
      return "Record<string, unknown>";
    default:
      return "unknown";
  }
}

// A choice between required fields is left to the server, which names the missing one.
function object({ properties, required = [] }, indent) {
  const inner = `${indent}  `;
  const fields = Object.entries(properties).map(([name, schema]) => {
    const isOptional = !required.includes(name);
    const hint = comment(schema.description, inner);
    return `${hint}${inner}readonly ${name}${isOptional ? "?" : ""}: ${type(schema, inner)}${isOptional ? " | undefined" : ""};\n`;
  });
  return `{\n${fields.join("")}${indent}}`;
}

let text = "// Made from docs/openapi.json by scripts/types.mjs. Do not change it by hand.\n";

for (const [name, schema] of Object.entries(components.schemas)) {
  const body = type(schema);
  text += `\n${comment(schema.description, "")}`;
  text +=
    body.startsWith("{\n") && !body.includes("} | ")
      ? `export interface ${name} ${body}\n`
      : `export type ${name} = ${body};\n`;
}

text +=
  "\n/** Every call of the HTTP API by its name, with the types of what goes in and what comes out. */\nexport interface Operations {\n";
for (const [path, methods] of Object.entries(paths)) {
  for (const [method, operation] of Object.entries(methods)) {
    const result = operation.responses[200]?.content?.["application/json"]?.schema;
    if (!path.startsWith("/v1/") || !result) continue;

    const body = operation.requestBody?.content["application/json"].schema;
    const query = (operation.parameters ?? []).filter((parameter) => parameter.in === "query");
    const properties = Object.fromEntries(
      query.map(({ name, schema, description }) => [name, { ...schema, description }]),
    );
    text += comment(`${method.toUpperCase()} ${path}`, "  ");
    text += `  readonly ${operation.operationId}: {\n`;
    if (body) text += `    readonly body: ${type(body, "    ")};\n`;
    if (query.length) text += `    readonly query: ${object({ properties }, "    ")};\n`;
    text += `    readonly result: ${type(result, "    ")};\n  };\n`;
  }
}
text += "}\n";

if (process.argv.includes("--check")) {
  if (readFileSync(target, "utf8") !== text) {
    console.error("src/api.ts is not what docs/openapi.json says: run node scripts/types.mjs");
    process.exit(1);
  }
} else writeFileSync(target, text);
