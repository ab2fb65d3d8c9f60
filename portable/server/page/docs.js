/** The page of endpoints: openapi.json as something to read. */
import { byId, el } from "./dom.js";

/** What a schema allows, in a few words. */
function said(schema, known) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) {
    const kinds = schema.anyOf.filter((one) => one.type !== "null").map((one) => said(one, known));
    return [...new Set(kinds)].join(" | ");
  }
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" | ");
  if (schema.type === "array") return `list of ${said(schema.items ?? {}, known)}`;
  const low = schema.minimum ?? schema.exclusiveMinimum;
  const high = schema.maximum ?? schema.exclusiveMaximum;
  const within = low === undefined && high === undefined ? "" : ` ${low ?? ""}…${high ?? ""}`;
  return `${schema.type ?? "anything"}${within}`;
}

/** The fields of a struct, one a row. */
function fields(schema, known) {
  const struct = known[schema.$ref?.split("/").pop()] ?? schema;
  const required = new Set(struct.required ?? []);
  const rows = Object.entries(struct.properties ?? {}).map(([name, one]) =>
    el(
      "tr",
      {},
      el("td", {}, el("code", {}, name), required.has(name) ? " *" : ""),
      el("td", {}, said(one, known)),
    ),
  );
  const heads = ["field", "value"].map((name) => el("th", { scope: "col" }, name));
  return el("table", {}, el("tr", {}, ...heads), ...rows);
}

function endpoint(path, method, operation, known) {
  const body = operation.requestBody?.content["application/json"].schema;
  const title = el("code", {}, `${method.toUpperCase()} ${path}`);
  const what = el("span", { class: "what" }, ` ${operation.summary}`);
  const parts = body ? [fields(body, known)] : [];
  return el("details", {}, el("summary", {}, title, what), ...parts);
}

async function show() {
  const place = byId("endpoints");
  const key = sessionStorage.getItem("portable.key");
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  try {
    const reply = await fetch("openapi.json", { headers });
    const told = await reply.json();
    if (!reply.ok) throw new Error(told.message);
    for (const [path, operations] of Object.entries(told.paths)) {
      for (const [method, operation] of Object.entries(operations)) {
        place.append(endpoint(path, method, operation, told.components.schemas));
      }
    }
  } catch (error) {
    place.append(el("p", { role: "alert" }, error.message));
  }
  place.removeAttribute("aria-busy");
}

show();
