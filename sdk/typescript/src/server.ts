/** The function side of Fanfare: the HTTP API for any runtime with `fetch` and WebCrypto. */
import type {
  BatchItem,
  BatchResult,
  Broadcast,
  Channel,
  Connection,
  Disconnect,
  Disconnected,
  Dispatch,
  Emit,
  Explanation,
  Joined,
  Left,
  Member,
  Membership,
  Operations,
  Problem,
  Publish,
  Receipt,
  ReplaceReceipt,
  Revoke,
  RevokeReceipt,
  Rights,
  Send,
  StoredEvent,
  Token,
  TokenRequest,
  User,
} from "./api.js";
import { FanfareError } from "./error.js";
import { jitter } from "./timing.js";
import type { AnyEvents, EventName } from "./types.js";

export type * from "./api.js";
export { FanfareError };

/** A filter and the values that it names. Both are fields of every call that takes a filter. */
export interface Where {
  readonly filter: string;
  readonly params: Record<string, unknown>;
}

/** A part of a filter made by `where`, which another one can contain. */
class Part implements Where {
  declare readonly filter: string;
  declare readonly params: Record<string, unknown>;
  readonly #texts: readonly string[];
  readonly #values: readonly unknown[];

  constructor(texts: readonly string[], values: readonly unknown[]) {
    this.#texts = texts;
    this.#values = values;

    // Enumerable, so that `{ ...where`…` }` has them.
    const params: Record<string, unknown> = {};
    Object.assign(this, { filter: this.#render(params), params });
  }

  #render(params: Record<string, unknown>): string {
    return this.#texts.reduce((text, next, index) => {
      const value = this.#values[index - 1];
      if (value instanceof Part) return `${text}(${value.#render(params)})${next}`;

      // Such a value comes from a variable that is empty by mistake, and would mean other connections.
      if (value == null)
        throw new TypeError(`value ${index} of the filter is ${value}: write null into the filter if you mean it`);
      const name = `p${Object.keys(params).length}`;
      params[name] = value;
      return `${text}params.${name}${next}`;
    });
  }
}

// A string or a comment of a filter. In a raw string a backslash escapes nothing.
const quoted = /r("""|'''|["']).*?\1|("""|'''|["'])(?:\\.|[^\\])*?\2|\/\/[^\n]*/gis;

/**
 * A filter with values. They are bound as params and never become part of the text:
 *
 * ```ts
 * await fanfare.emit("alert", "Hello", where`auth.tenant == ${tenant} && "admin" in auth.roles`);
 * ```
 *
 * A value may itself be made by `where`. `null` and `undefined` throw, since `auth.tenant == null` is true for everyone
 * without a tenant. So does a value in quotes. The text is taken as it is written, backslashes included.
 */
export function where(texts: TemplateStringsArray, ...values: unknown[]): Where {
  if (!Array.isArray(texts?.raw))
    throw new TypeError("where is a tag: write where`auth.plan == ${plan}`, without parentheses");

  // A character stands for each value. In quotes the name of a param would be a text like any other.
  const text = texts.raw.join("\0");
  for (const { 0: part, index } of text.matchAll(quoted)) {
    if (!part.includes("\0")) continue;
    const at = text.slice(0, index).split("\0").length;
    throw new TypeError(`value ${at} of the filter is in quotes or in a comment: write \${…} without quotes`);
  }

  return new Part(texts.raw, values);
}

/** A refusal of the server: a problem document (RFC 9457). */
export class ApiError extends FanfareError {
  override readonly name = "ApiError" as never;
  /** The HTTP status. */
  readonly status: number;
  /** What happened, in a sentence. */
  readonly detail: string;
  /** For a filter: the line in question with carets under the mistake. */
  readonly excerpt: string | undefined;
  /** For a filter: where the mistake begins, in bytes. */
  readonly offset: number | undefined;
  /** For a filter: the length of the mistake in bytes. */
  readonly length: number | undefined;
  /** How many seconds to wait before another attempt, if the server said so. */
  readonly retryAfter: number | undefined;

  constructor(problem: Partial<Problem>, status: number, retryAfter?: number) {
    const { code = "unknown", detail = `the server answered ${status}`, excerpt } = problem;
    super(code, excerpt ? `${detail}\n${excerpt}` : detail);
    this.status = status;
    this.detail = detail;
    this.excerpt = excerpt;
    this.offset = problem.offset;
    this.length = problem.length;
    this.retryAfter = retryAfter;
  }
}

/** Options of every call. */
export interface CallOptions {
  /** Ends the call, and its repeats. */
  readonly signal?: AbortSignal | undefined;
  /** Milliseconds that one attempt may take. */
  readonly timeout?: number | undefined;
  /** How often the call is repeated. */
  readonly retries?: number | undefined;
}

/** Options of a call that publishes. */
export interface PublishOptions extends CallOptions {
  /** Names the call, so that a repeat by another process sends nothing. Default: a random one. */
  readonly idempotencyKey?: string | undefined;
}

type Without<T, K extends string> = Omit<T, K | "event" | "data" | "data_base64">;

/** Fields of `POST /v1/emit`, and options. `where` makes `filter` and `params`. */
export type EmitOptions = Without<Emit, never> & PublishOptions;
/** Fields of `POST /v1/publish`, and options. */
export type ToUsersOptions = Without<Publish, "user" | "users"> & PublishOptions;
/** Fields of `POST /v1/send`, and options. */
export type ToChannelsOptions = Without<Send, "channel" | "channels"> & PublishOptions;
/** Fields of `POST /v1/broadcast`, and options. */
export type BroadcastOptions = Without<Broadcast, never> & PublishOptions;
/** Fields of `POST /v1/dispatch`, and options. */
export type DispatchOptions = Without<Dispatch, "recipients"> & PublishOptions;
/** Whom `join`, `leave` and `disconnect` mean. */
export type TargetOptions = Omit<Membership, "channel"> & CallOptions;

/** What is needed to call a server. */
export interface FanfareOptions {
  /** The server's address. Default `http://127.0.0.1:7070`. */
  readonly url?: string | undefined;
  /** An API key. A server in development needs none. */
  readonly key?: string | undefined;
  /** Another `fetch`, such as that of a service binding. */
  readonly fetch?: ((url: string, init: RequestInit) => Promise<Response>) | undefined;
  /** Milliseconds that one attempt may take. Default 5,000. */
  readonly timeout?: number | undefined;
  /** How often a call is repeated after a network error, a timeout, a 500 or a 503. Default 2. */
  readonly retries?: number | undefined;
}

// Seconds. A server or a proxy that asks for more is not waited for.
const longestPause = 30;

const sleep = (ms: number, signal: AbortSignal | undefined) =>
  new Promise<void>((resolve, reject) => {
    const abort = () => {
      clearTimeout(timer);
      reject(signal!.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", abort);
      resolve();
    }, ms);
    signal?.addEventListener("abort", abort);
  });

const base64 = (bytes: Uint8Array): string => {
  let text = "";
  // More arguments than this overflow the stack of some runtimes.
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text);
};

/** `data`, or bytes as `data_base64`. */
export function dataOf(data: unknown): { data?: unknown; data_base64?: string } {
  if (data instanceof ArrayBuffer) return { data_base64: base64(new Uint8Array(data)) };
  if (ArrayBuffer.isView(data))
    return { data_base64: base64(new Uint8Array(data.buffer, data.byteOffset, data.byteLength)) };
  return data === undefined ? {} : { data };
}

/** The HTTP API of a server. `E` maps names of events to the types of their data. */
export class Fanfare<E extends object = AnyEvents> {
  readonly #options: FanfareOptions;

  constructor(options: FanfareOptions = {}) {
    this.#options = options;
  }

  /** Sends an event to every connection that `to`, `filter` and `except` describe. */
  emit<K extends EventName<E>>(event: K, data?: E[K], options: EmitOptions = {}): Promise<Receipt> {
    return this.#publish("emit", event, data, options);
  }

  /** Sends an event to all connections of one user or several. */
  publish<K extends EventName<E>>(
    users: string | readonly string[],
    event: K,
    data?: E[K],
    options: ToUsersOptions = {},
  ): Promise<Receipt> {
    return this.#publish("publish", event, data, options, typeof users === "string" ? { user: users } : { users });
  }

  /** Sends an event to the members of one channel or several. */
  send<K extends EventName<E>>(
    channels: string | readonly string[],
    event: K,
    data?: E[K],
    options: ToChannelsOptions = {},
  ): Promise<Receipt> {
    const target = typeof channels === "string" ? { channel: channels } : { channels };
    return this.#publish("send", event, data, options, target);
  }

  /** Sends an event to everyone. */
  broadcast<K extends EventName<E>>(event: K, data?: E[K], options: BroadcastOptions = {}): Promise<Receipt> {
    return this.#publish("broadcast", event, data, options);
  }

  /** Sends an event to users, or to everyone by `["*"]`. */
  dispatch<K extends EventName<E>>(
    recipients: readonly string[],
    event: K,
    data?: E[K],
    options: DispatchOptions = {},
  ): Promise<Receipt> {
    return this.#publish("dispatch", event, data, options, { recipients });
  }

  /** Makes up to 100 publishing calls in one request. One that fails stops no other. */
  async batch(items: readonly BatchItem[], options: PublishOptions = {}): Promise<readonly BatchResult[]> {
    const { idempotencyKey, ...call } = options;
    return (await this.#post("batch", { items }, call, idempotencyKey ?? crypto.randomUUID())).results;
  }

  /** Shows how a filter is answered and whom it matches. Sends nothing. */
  async explain(
    filter: Where | string,
    options: { readonly connection?: string } & CallOptions = {},
  ): Promise<Explanation> {
    const [fields, call] = split(options);
    return this.#post("explain", { ...(typeof filter === "string" ? { filter } : filter), ...fields }, call);
  }

  /** The connections, all of them or those that match a filter. */
  async *connections(
    options: Partial<Where> & { readonly limit?: number } & CallOptions = {},
  ): AsyncGenerator<Connection, void, undefined> {
    const [{ params, ...query }, call] = split(options);
    const all = { ...query, params: params && JSON.stringify(params) };
    for await (const page of this.#pages<Operations["connections"]["result"]>("/v1/connections", all, call))
      yield* page.connections;
  }

  /** One connection. */
  connection(id: string, options: CallOptions = {}): Promise<Connection> {
    return this.request("GET", `/v1/connections/${encodeURIComponent(id)}`, undefined, options);
  }

  /** Whether a user is online. */
  user(user: string, options: CallOptions = {}): Promise<User> {
    return this.request("GET", `/v1/users/${encodeURIComponent(user)}`, undefined, options);
  }

  /** The channels with members, in the order of their names. */
  async *channels(
    options: { readonly prefix?: string; readonly limit?: number } & CallOptions = {},
  ): AsyncGenerator<Channel, void, undefined> {
    const [query, call] = split(options);
    for await (const page of this.#pages<Operations["channels"]["result"]>("/v1/channels", query, call))
      yield* page.channels;
  }

  /** How many members a channel has, and where its history stands. */
  channel(channel: string, options: CallOptions = {}): Promise<Channel> {
    return this.request("GET", `/v1/channels/${encodeURIComponent(channel)}`, undefined, options);
  }

  /** The members of a channel. */
  async *members(
    channel: string,
    options: { readonly limit?: number } & CallOptions = {},
  ): AsyncGenerator<Member, void, undefined> {
    const [query, call] = split(options);
    const path = `/v1/channels/${encodeURIComponent(channel)}/members`;
    for await (const page of this.#pages<Operations["members"]["result"]>(path, query, call)) yield* page.members;
  }

  /** The stored events of a channel, the oldest first. */
  async *history(
    channel: string,
    options: { readonly after?: number; readonly limit?: number } & CallOptions = {},
  ): AsyncGenerator<StoredEvent, void, undefined> {
    const [query, call] = split(options);
    const path = `/v1/channels/${encodeURIComponent(channel)}/history`;
    for await (const page of this.#pages<Operations["history"]["result"]>(path, query, call, "after"))
      yield* page.events;
  }

  /** Puts connections into a channel. */
  async join(channel: string, target: TargetOptions): Promise<Joined> {
    const [fields, call] = split(target);
    return this.#post("join", { channel, ...fields }, call);
  }

  /** Takes connections out of a channel. */
  async leave(channel: string, target: TargetOptions): Promise<Left> {
    const [fields, call] = split(target);
    return this.#post("leave", { channel, ...fields }, call);
  }

  /** Closes connections. The range of `code` says whether clients come back. */
  async disconnect(target: Disconnect & CallOptions): Promise<Disconnected> {
    const [fields, call] = split(target);
    return this.#post("disconnect", fields, call);
  }

  /** Lets the server sign a token for a client. `signToken` does the same without a request. */
  async token(user: string, options: Omit<TokenRequest, "user"> & CallOptions = {}): Promise<Token> {
    const [fields, call] = split(options);
    return this.#post("tokens", { user, ...fields }, call);
  }

  /** Refuses the tokens that users have now, and closes the connections that came with them. */
  async revoke(
    users: string | readonly string[],
    options: Pick<Revoke, "before"> & CallOptions = {},
  ): Promise<RevokeReceipt> {
    const [fields, call] = split(options);
    return this.#post("revoke", { ...(typeof users === "string" ? { user: users } : { users }), ...fields }, call);
  }

  /** Replaces the claims of a user's open connections, and with `can` what they may do. */
  async auth(
    user: string,
    claims: Record<string, unknown>,
    options: { readonly can?: Rights } & CallOptions = {},
  ): Promise<ReplaceReceipt> {
    const [fields, call] = split(options);
    return this.#post("auth", { user, claims, ...fields }, call);
  }

  /** Whether the process is running. */
  healthz(options: CallOptions = {}): Promise<Operations["healthz"]["result"]> {
    return this.request("GET", "/healthz", undefined, options);
  }

  /** Whether the process works, or should be restarted. Neither is an error. */
  livez(options: CallOptions = {}): Promise<Operations["livez"]["result"]> {
    return this.#call("GET", "/livez", undefined, options, isProbed);
  }

  /** Whether the node is ready for traffic. Neither is an error. */
  async readyz(options: Operations["readyz"]["query"] & CallOptions = {}): Promise<Operations["readyz"]["result"]> {
    const [{ scope }, call] = split(options);
    return this.#call("GET", `/readyz${scope ? `?scope=${scope}` : ""}`, undefined, call, isProbed);
  }

  /** The description of the HTTP API, as OpenAPI. */
  openapi(options: CallOptions = {}): Promise<Record<string, unknown>> {
    return this.request("GET", "/v1/openapi.json", undefined, options);
  }

  /**
   * Any call, for what has no method here. It is repeated after a network error, a timeout, a 500 and a 503, unless the
   * server asks for a pause of more than 30 s. It rejects with an `ApiError`, or with a `FanfareError` of the code
   * `network`, `timeout`, `bad_url`, `bad_key` or `bad_path`.
   */
  request<T>(
    method: string,
    path: string,
    body?: unknown,
    options: CallOptions & { readonly headers?: Record<string, string> } = {},
  ): Promise<T> {
    return this.#call(method, path, body, options, (response) => response.ok);
  }

  async #call<T>(
    method: string,
    path: string,
    body: unknown,
    options: CallOptions & { readonly headers?: Record<string, string> },
    isResult: (response: Response) => boolean,
  ): Promise<T> {
    const { url = "http://127.0.0.1:7070", key, retries: often = 2 } = this.#options;
    const { signal, retries = often } = options;
    if (!/^https?:\/\//i.test(url))
      throw new FanfareError("bad_url", `the server's address must begin with http:// or https://, not "${url}"`);
    // What fetch says of such a header would show the key.
    if (key && !/^[\x21-\x7e]+$/.test(key))
      throw new FanfareError("bad_key", "the API key has a character that no API key has");

    // Encoded dots are dots for fetch as well, so there is no way to ask for such a name.
    const dots = /^[^?#]*\/((?:\.|%2e){1,2})(?=[/?#]|$)/i.exec(path)?.[1];
    if (dots) throw new FanfareError("bad_path", `fetch cannot ask for the name "${dots}": it would call another path`);

    const headers: Record<string, string> = { ...options.headers };
    if (key) headers["Authorization"] = `Bearer ${key}`;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const init = { method, headers, ...(body !== undefined && { body: JSON.stringify(body) }) };

    for (let attempt = 0; ; attempt++) {
      signal?.throwIfAborted();
      let failure: FanfareError;
      let advised = 0;

      try {
        const answer = await this.#fetch(`${url.replace(/\/+$/, "")}${path}`, init, options, isResult);
        if (answer.ok) return answer.body as T;
        failure = answer.error;
        if (answer.error.status !== 500 && answer.error.status !== 503) throw failure;
        advised = answer.error.retryAfter ?? 0;
      } catch (error) {
        signal?.throwIfAborted();
        if (!(error instanceof FanfareError) || error instanceof ApiError) throw error;
        failure = error;
      }

      if (attempt >= retries || advised > longestPause) throw failure;

      // Callers that failed together should not come back together, and none earlier than the server said.
      await sleep(advised * 1000 + jitter(200 * 2 ** attempt), signal);
    }
  }

  async #fetch(
    url: string,
    init: RequestInit & { readonly headers: Record<string, string> },
    options: CallOptions,
    isResult: (response: Response) => boolean,
  ): Promise<Answer> {
    const { timeout: limit = 5000 } = this.#options;
    const { signal, timeout = limit } = options;

    // AbortSignal.any is missing in some edge runtimes.
    const controller = new AbortController();
    const abort = () => controller.abort(signal?.reason);
    signal?.addEventListener("abort", abort);
    // The query has the params of a filter, which may be confidential.
    const [place] = url.split("?");
    const late = new FanfareError("timeout", `no answer from ${place} in ${timeout} ms`);
    const timer = setTimeout(() => controller.abort(late), timeout);

    try {
      const send = this.#options.fetch ?? fetch;
      const response = await send(url, { ...init, signal: controller.signal });
      const text = await response.text();
      if (isResult(response)) return { ok: true, body: JSON.parse(text) };

      const { status } = response;
      const problem = problemOf(text);
      if (status === 401 && !init.headers["Authorization"])
        problem.detail = `${problem.detail ?? "unauthorized"} (there is no key here: set FANFARE_API_KEY, or pass \`key\`)`;
      const after = Number(response.headers.get("retry-after")) || undefined;
      return { ok: false, error: new ApiError(problem, status, after) };
    } catch (error) {
      if (controller.signal.aborted) throw controller.signal.reason;
      const failure = new FanfareError("network", `no answer from ${place}: ${reasonOf(error)}`);
      throw Object.assign(failure, { cause: error });
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    }
  }

  async #publish(
    operation: "emit" | "publish" | "send" | "broadcast" | "dispatch",
    event: string,
    data: unknown,
    options: PublishOptions,
    target: object = {},
  ): Promise<Receipt> {
    const [{ idempotencyKey = crypto.randomUUID(), ...fields }, call] = split(options);
    return this.#post(operation, { ...target, ...fields, event, ...dataOf(data) } as never, call, idempotencyKey);
  }

  #post<K extends keyof Operations>(
    operation: K,
    body: Operations[K] extends { readonly body: infer B } ? B : never,
    call: CallOptions,
    idempotencyKey?: string,
  ): Promise<Operations[K]["result"]> {
    const headers = idempotencyKey === undefined ? {} : { "Idempotency-Key": idempotencyKey };
    return this.request("POST", `/v1/${operation}`, body, { ...call, headers });
  }

  async *#pages<R extends object>(
    path: string,
    query: object,
    call: CallOptions,
    next = "cursor",
  ): AsyncGenerator<R, void, undefined> {
    const search = new URLSearchParams();
    for (const [name, value] of Object.entries(query)) if (value !== undefined) search.set(name, `${value}`);

    for (;;) {
      const page = await this.request<R>("GET", `${path}?${search}`, undefined, call);
      yield page;

      const { cursor } = page as { cursor?: string | number };
      if (cursor === undefined) return;
      search.set(next, `${cursor}`);
    }
  }
}

type Answer = { readonly ok: true; readonly body: unknown } | { readonly ok: false; readonly error: ApiError };

/** Whether a node says how it is. One that should be restarted, or is not ready, says so with a 503. */
function isProbed(response: Response): boolean {
  // A refusal is a problem document, which has another type.
  const isJson = response.headers.get("content-type")?.startsWith("application/json");
  return response.ok || (response.status === 503 && !!isJson);
}

/** A proxy may answer with something else than a problem document. */
function problemOf(text: string): { -readonly [K in keyof Problem]?: Problem[K] } {
  try {
    return Object(JSON.parse(text));
  } catch {
    return {};
  }
}

/** Why `fetch` failed. */
function reasonOf(error: unknown): string {
  // Node says it in the cause, which has no message where several addresses were tried. Bun says it in the code.
  const { code, cause } = Object(error);
  const more = cause?.message || cause?.code || (typeof code === "string" && code);
  return more ? `${error}: ${more}` : `${error}`;
}

/** The fields of a body, and the options of its call. */
function split<T extends CallOptions>(options: T): [Omit<T, keyof CallOptions>, CallOptions] {
  // A text would become fields that are called 0, 1, 2, and so on.
  if (typeof options !== "object")
    throw new TypeError(
      `options are an object, not a ${typeof options}: write a filter as { filter: "…" } or where\`…\``,
    );
  const { signal, timeout, retries, ...fields } = options;
  return [fields, { signal, timeout, retries }];
}

/**
 * The server that `FANFARE_URL` and `FANFARE_API_KEY` name. Of several keys the first is used, and an empty variable counts
 * as unset. Workers pass their `env`.
 */
export function fromEnv<E extends object = AnyEvents>(
  env: Record<string, unknown> = (globalThis as { process?: { env?: Record<string, unknown> } }).process?.env ?? {},
  options: FanfareOptions = {},
): Fanfare<E> {
  const { FANFARE_URL, FANFARE_API_KEY } = env as Record<string, string | undefined>;
  const url = FANFARE_URL || undefined;
  // A server reads the same variable, and may have several keys.
  const key = `${FANFARE_API_KEY ?? ""}`.split(",")[0]!.trim();
  return new Fanfare<E>({ url, key, ...options });
}

/** What a token says. */
export interface TokenOptions {
  /** Further claims, which filters see as `auth.*`. */
  readonly claims?: Record<string, unknown>;
  /** What the client may do. */
  readonly can?: Rights;
  /** The life of the token in seconds, as a whole number. Default 600. */
  readonly ttl?: number;
}

/**
 * Signs a token for a client with the secret that the server has as `FANFARE_TOKEN_SECRET` (HS256).
 *
 * ```ts
 * const token = await signToken(secret, "ann", { claims: { plan: "pro" }, can: { join: ["room-*"] } });
 * ```
 *
 * It rejects with a `FanfareError` of the code `bad_secret`, `bad_user`, `bad_claims`, `bad_can` or `bad_ttl`.
 */
export async function signToken(secret: string | undefined, user: string, options: TokenOptions = {}): Promise<string> {
  checkTokenOptions(options);
  const { can, ttl = 600 } = options;
  const claims = options.claims ?? {};
  check(secret, user, claims, ttl);
  if (can !== undefined) checkRights(can);

  const url = (data: Uint8Array) => base64(data).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  const bytes = (text: string) => new TextEncoder().encode(text);
  const encode = (value: unknown) => url(bytes(JSON.stringify(value)));
  const iat = Math.floor(Date.now() / 1000);
  const text = `${encode({ alg: "HS256", typ: "JWT" })}.${encode({ ...claims, can, sub: user, iat, exp: iat + ttl })}`;

  const algorithm = { name: "HMAC", hash: "SHA-256" };
  const key = await crypto.subtle.importKey("raw", bytes(secret!), algorithm, false, ["sign"]);
  const signature = await crypto.subtle.sign(algorithm, key, bytes(text));
  return `${text}.${url(new Uint8Array(signature))}`;
}

/** Refuses options that would have no effect: claims beside `claims` would be missing in the token, and filters match nobody. */
function checkTokenOptions(options: TokenOptions): void {
  const form = "claims are { claims: { plan: … } }";
  if (typeof options !== "object" || !options)
    throw new FanfareError("bad_claims", `options are an object, not ${JSON.stringify(options)}; ${form}`);

  const known = ["claims", "can", "ttl"];
  const unknown = Object.keys(options).find((name) => !known.includes(name));
  if (unknown === undefined) return;
  const near = known.find((name) => isNear(unknown, name));
  const hint = near ? `did you mean "${near}"?` : `claims are { claims: { ${unknown}: … } }`;
  throw new FanfareError("bad_claims", `unknown option "${unknown}"; ${hint}`);
}

/** Refuses what cannot be meant, and what the server would refuse in a token later. */
function check(secret: string | undefined, user: string, claims: object, ttl: number): void {
  const sizeOf = (text: string) => new TextEncoder().encode(text).length;

  if (secret === undefined)
    throw new FanfareError("bad_secret", "the secret is undefined: is FANFARE_TOKEN_SECRET set?");
  if (typeof secret !== "string") throw new FanfareError("bad_secret", "the token secret must be a string");
  if (sizeOf(secret) < 32) throw new FanfareError("bad_secret", "the token secret must have at least 32 bytes");

  // The token would belong to nobody.
  if (typeof user !== "string" || !user || sizeOf(user) > 256)
    throw new FanfareError("bad_user", "a token needs a user: a string of 1 to 256 bytes");

  if (typeof claims !== "object") throw new FanfareError("bad_claims", `claims are an object, not a ${typeof claims}`);
  const reserved = ["sub", "iat", "exp", "can"].find((name) => name in claims);
  if (reserved) throw new FanfareError("bad_claims", `"${reserved}" cannot be among the claims: signToken sets it`);

  if (!Number.isSafeInteger(ttl))
    throw new FanfareError("bad_ttl", `ttl is a whole number of seconds, such as 600, not ${JSON.stringify(ttl)}`);
}

const lists = ["join", "send", "members", "call"];
const switches = ["broadcast", "publish", "update"];

function checkRights(can: Rights): void {
  if (typeof can !== "object" || !can)
    throw new FanfareError("bad_can", 'can is an object, such as { join: ["room-*"] }');

  const rights = [...lists, ...switches];
  for (const [name, value] of Object.entries(can)) {
    if (!rights.includes(name)) {
      const near = rights.find((right) => isNear(name, right));
      const hint = near ? `did you mean "${near}"?` : `rights are ${rights.join(", ")}`;
      throw new FanfareError("bad_can", `unknown right "${name}"; ${hint}`);
    }

    const isList = Array.isArray(value) && value.every((item) => typeof item === "string");
    if (value === undefined || (lists.includes(name) ? isList : typeof value === "boolean")) continue;
    const form = lists.includes(name) ? "a list of strings" : "true or false";
    throw new FanfareError("bad_can", `the right "${name}" must be ${form}`);
  }
}

/** Whether two words have the same letters, in any order, but for one. */
function isNear(word: string, other: string): boolean {
  const rest = [...other].reduce((left, letter) => left.replace(letter, ""), word);
  return rest.length < 2 && Math.abs(word.length - other.length) < 2;
}
