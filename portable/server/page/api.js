/** The server's API: requests, its errors, and its stream of chunks. Knows nothing of the page. */

const KEY = "portable.key";

/** What went wrong. `status` is 0 and `code` is "network" when nothing came back. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = "network", seconds = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.seconds = seconds;
  }
}

export function keepKey(key) {
  sessionStorage.setItem(KEY, key);
}

export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}

/** The models of the server, the default one first. */
export async function models() {
  const { data } = await (await ask("v1/models")).json();
  return data;
}

/** How the model is: `status` is "ok", "loading" (with `progress`), "failed" or "away". */
export async function health() {
  try {
    return await (await fetch("health", { cache: "no-store" })).json();
  } catch {
    return { status: "away" };
  }
}

/** The chunks of an answer as they come. Throws ApiError, or AbortError when `signal` fires. */
export async function* chat(body, signal) {
  const response = await ask("v1/chat/completions", { ...body, stream: true }, signal);
  for await (const data of events(response.body)) {
    const chunk = JSON.parse(data);
    if (chunk.error)
      throw new ApiError(chunk.error.message, { status: 200, code: chunk.error.code });
    yield chunk;
  }
}

async function ask(path, body, signal) {
  const headers = body ? { "Content-Type": "application/json" } : {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  const method = body ? "POST" : "GET";
  const response = await overNetwork(
    fetch(path, { method, headers, signal, body: body && JSON.stringify(body), cache: "no-store" }),
  );
  if (!response.ok) throw await refused(response);
  return response;
}

async function refused(response) {
  const { error = {} } = await response.json().catch(() => ({}));
  const seconds = Number(response.headers.get("Retry-After")) || null;
  const message = error.message ?? `HTTP ${response.status}`;
  return new ApiError(message, { status: response.status, code: error.code ?? "", seconds });
}

/** The data of each server-sent event up to `[DONE]`. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await overNetwork(reader.read());
      if (done) throw new ApiError("the stream ended early");
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        yield data;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Browsers say TypeError for everything that goes wrong below HTTP. */
async function overNetwork(promise) {
  try {
    return await promise;
  } catch (error) {
    throw error.name === "AbortError" ? error : new ApiError(error.message);
  }
}
