// Writes src/api.ts from docs/openapi.json, which the server serves at GET /v1/openapi.json, and src/protocol.ts from
// docs/client-protocol.schema.json. `node scripts/types.mjs --check` only says whether both are up to date.
import { readFileSync, writeFileSync } from "node:fs";

const docs = new URL("../../../docs/", import.meta.url);
const read = (name) => JSON.parse(readFileSync(new URL(name, docs), "utf8"));

const comment = (text, indent) => (text ? `${indent}/** ${text.replaceAll("*/", "* /")} */\n` : "");
const nameOf = ({ $ref }) => $ref.split("/").at(-1);

/** The TypeScript type of a JSON Schema. */
function type(schema, indent = "") {
  if (schema.$ref) return nameOf(schema);
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.properties) return object(schema, indent);
  const choice = schema.oneOf ?? schema.anyOf;
  if (choice) return choice.map((one) => type(one, indent)).join(" | ");
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

/** One exported type for each of the named schemas. */
function declarations(schemas) {
  return Object.entries(schemas).map(([name, { allOf, ...schema }]) => {
    const hint = comment(schema.description, "");
    if (!allOf) {
      const body = type(schema);
      const isInterface = body.startsWith("{\n") && !body.includes("} | ");
      return `\n${hint}${isInterface ? `export interface ${name} ${body}` : `export type ${name} = ${body};`}\n`;
    }

    // An object that adds to others. One that requires a field of theirs repeats it.
    const bases = allOf.map(nameOf);
    const repeated = (schema.required ?? []).flatMap((field) =>
      bases.flatMap((base) => {
        const found = schemas[base].properties?.[field];
        return found && !schemas[base].required?.includes(field) ? [[field, found]] : [];
      }),
    );
    const properties = { ...Object.fromEntries(repeated), ...schema.properties };
    return `\n${hint}export interface ${name} extends ${bases.join(", ")} ${object({ ...schema, properties }, "")}\n`;
  });
}

/** Every call of the HTTP API, with the types of what goes in and what comes out. */
function operations(paths) {
  let text = "";
  for (const [path, methods] of Object.entries(paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const result = operation.responses[200]?.content?.["application/json"]?.schema;
      if (!result) continue;

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
  return text;
}

const head = (source) => `// Made from docs/${source} by scripts/types.mjs. Do not change it by hand.\n`;

function api(source) {
  const { components, paths } = read(source);
  return (
    declarations(components.schemas).join("") +
    "\n/** Every call of the HTTP API by its name, with the types of what goes in and what comes out. */\n" +
    `export interface Operations {\n${operations(paths)}}\n`
  );
}

const made = [
  ["api.ts", "openapi.json", api],
  ["protocol.ts", "client-protocol.schema.json", (source) => declarations(read(source).$defs).join("")],
];

for (const [name, source, make] of made) {
  const target = new URL(`../src/${name}`, import.meta.url);
  const text = head(source) + make(source);

  if (!process.argv.includes("--check")) writeFileSync(target, text);
  else if (readFileSync(target, "utf8") !== text) {
    console.error(`src/${name} is not what docs/${source} says: run node scripts/types.mjs`);
    process.exitCode = 1;
  }
}
