// Writes docs/asyncapi.json (AsyncAPI 3.0) from docs/client-protocol.schema.json, for tools that read nothing else.
// `node scripts/asyncapi.mjs --check` only says whether it is up to date.
import { readFileSync, writeFileSync } from "node:fs";
import { format } from "prettier";

const docs = new URL("../../../docs/", import.meta.url);
const { title, description, $defs } = JSON.parse(readFileSync(new URL("client-protocol.schema.json", docs), "utf8"));
const target = new URL("asyncapi.json", docs);

const nameOf = ({ $ref }) => $ref.split("/").at(-1);
const kinds = (group) => $defs[group].anyOf.map(nameOf);
const fromClients = kinds("ClientMessage");
const fromServer = kinds("ServerMessage");

/** A schema in draft 7, which AsyncAPI has: an object has the fields of those that it adds to. */
function older({ allOf = [], unevaluatedProperties, dependentRequired, ...schema }) {
  for (const base of allOf.map((ref) => older($defs[nameOf(ref)]))) {
    schema.properties = { ...base.properties, ...schema.properties };
    schema.required = [...(base.required ?? []), ...(schema.required ?? [])];
    if (!schema.required.length) delete schema.required;
  }
  if (unevaluatedProperties === false) schema.additionalProperties = false;
  if (dependentRequired) schema.dependencies = dependentRequired;
  return schema;
}

const messages = [...fromClients, ...fromServer];
const groups = ["ClientMessage", "ServerMessage"];
const schemas = Object.entries($defs).filter(([name]) => !groups.includes(name));
const on = (place, names) => names.map((name) => ({ $ref: `#/${place}/messages/${name}` }));
const named = (names, make) => Object.fromEntries(names.map((name) => [name, make(name)]));

const document = {
  asyncapi: "3.0.0",
  info: { title, version: "1", description, license: { name: "MIT OR Apache-2.0" } },
  defaultContentType: "application/json",
  channels: {
    connect: {
      address: "/v1/connect",
      messages: named(messages, (name) => ({ $ref: `#/components/messages/${name}` })),
      bindings: { ws: { method: "GET" } },
    },
  },
  // From the server's side, as AsyncAPI has it.
  operations: {
    fromClients: {
      action: "receive",
      channel: { $ref: "#/channels/connect" },
      summary: $defs.ClientMessage.description,
      messages: on("channels/connect", fromClients),
    },
    fromServer: {
      action: "send",
      channel: { $ref: "#/channels/connect" },
      summary: $defs.ServerMessage.description,
      messages: on("channels/connect", fromServer),
    },
  },
  components: {
    messages: named(messages, (name) => ({
      name,
      summary: $defs[name].description,
      payload: { $ref: `#/components/schemas/${name}` },
    })),
    schemas: Object.fromEntries(schemas.map(([name, schema]) => [name, older(schema)])),
  },
};

const json = JSON.stringify(document).replaceAll("#/$defs/", "#/components/schemas/");
const text = await format(json, { parser: "json", printWidth: 120 });

if (!process.argv.includes("--check")) writeFileSync(target, text);
else if (readFileSync(target, "utf8") !== text) {
  console.error("docs/asyncapi.json is not what docs/client-protocol.schema.json says: run node scripts/asyncapi.mjs");
  process.exit(1);
}
