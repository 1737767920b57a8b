import { FanfareError } from "./error.js";
import { decode, encode, type Frame, type Outgoing, type Target } from "./frames.js";
import { listening, registry } from "./listeners.js";
import { collect, memberships, type Membership, type Send } from "./membership.js";
import { watchPage } from "./page.js";
import type { Bye, Id } from "./protocol.js";
import { jitter, late, mayPass, nothing, quiet } from "./timing.js";
import { renewalDelay, tokenFetcher } from "./token.js";
import type {
  AnyEvents,
  Channel,
  Client,
  ClientOptions,
  JoinOptions,
  Member,
  Message,
  Reason,
  SendOptions,
  Sending,
  State,
} from "./types.js";

/** The part of a WebSocket that is used. */
interface Socket {
  binaryType: string;
  onmessage: ((event: { data: unknown }) => void) | null;
  onclose: ((event: { code: number; reason: string }) => void) | null;
  onerror: ((event: unknown) => void) | null;
  send(data: string | Uint8Array): void;
  close(code?: number): void;
}

/** What a schema returns, with both forms in one. */
interface Validated {
  readonly issues?: readonly { readonly message: string }[];
  readonly value?: unknown;
}

/** A message that waits for a connection, or for its answer. */
interface Request {
  readonly id: number;
  readonly op: Outgoing["op"];
  readonly frame: string | Uint8Array;
  /**
   * Whether it waits for the next connection, if it was not sent on this one. Absent: the client sends it again by itself
   * after the next welcome, and `done` is not called if the connection ends.
   */
  readonly keep: boolean | undefined;
  /** Called once, and before any later frame is looked at. */
  done(error: unknown, ack?: Frame): unknown;
}

// Messages that may be sent at the same time. A server gives as many to an anonymous client that just connected.
const burst = 20;

/** Connects to a server. The same as `createClient` and `connect`. */
export function connect<E extends object = AnyEvents>(url: string, options?: ClientOptions<E>): Client<E> {
  const client = createClient<E>(url, options);
  client.connect();
  return client;
}

/**
 * Makes a client of the server at `url`, such as `wss://events.example.com`. It connects when `connect` is called.
 *
 * ```text
 *         connect()              welcome
 *  idle ────────────► connecting ────────► connected
 *                      ▲   │ ▲               │
 *         connect()    │   │ └── delay,      │ the connection ends
 *  closed ─────────────┘   │     wake        ▼
 *    ▲                     └───────────► waiting
 *    └── close(), refused, signed out, unusable: from every state
 * ```
 */
export function createClient<E extends object = AnyEvents>(url: string, options: ClientOptions<E> = {}): Client<E> {
  const { timeout = 10_000, queue: queueLimit = 100, token: source } = options;
  const isRenewable = typeof source === "function";
  const device = options.device ?? Math.random().toString(36);

  const fetchToken = tokenFetcher(isRenewable ? source : () => source, timeout);

  const errors = registry(console.error);
  const notices = registry(report);
  const [methods, deliver] = listening<E>(notices, report);
  const sender = sending({});
  const channels = new Map<string, Membership>();
  const membership = memberships(channels, ask, report);

  let state: State = { status: "idle", reason: "created" };
  let closing: FanfareError;

  // The present attempt or connection. What belongs to an earlier one is ignored.
  let turn = 0;
  let socket: Socket | undefined;
  let welcomedAt = 0;
  let attempts = 0;
  let advice = { min_ms: 500, max_ms: 30_000 };
  let bye: Bye | undefined;
  // The id of the last connection, which the server may still have.
  let resume: string | undefined;

  let timer: ReturnType<typeof setTimeout> | undefined;
  let heart: ReturnType<typeof setTimeout> | undefined;
  let renewal: ReturnType<typeof setTimeout> | undefined;
  let pacer: ReturnType<typeof setTimeout> | undefined;
  // Beats of the heart since the last frame. There are five in the server's heartbeat.
  let silence = 0;

  let lastId = 0;
  // Messages that may be sent now. Below zero: a pause.
  let credit = burst;
  let queue: Request[] = [];
  const pending = new Map<Id, Request>();
  let profile: object | null | undefined;
  const seen = new Set<Id>();

  // --- State ---

  function report(error: unknown) {
    if (errors.of()[0]) errors.fire("error", error);
    else console.error(error);
  }

  function set(status: State["status"], reason: Reason, more?: Partial<State>) {
    state = { status, reason, ...more };
    notices.fire("state", state);
    // Channels come after the client, so that what their listeners send waits for the next connection.
    if (status !== "connected") for (const channel of channels.values()) channel.down();
  }

  // The state can be another after each call of a listener, which the type of the variable hides.
  function is(status: State["status"]) {
    return state.status === status;
  }

  // --- Connecting ---

  function open(reason: Reason): void {
    const mine = ++turn;
    clearTimeout(timer);
    bye = undefined;
    watchPage(wake, true);
    set("connecting", reason);

    // A listener may have closed the client.
    if (mine !== turn) return;
    fetchToken().then(
      (token) => mine === turn && dial(token),
      (error) => mine === turn && retry("token_failed", { error }),
    );
  }

  function dial(token: string | null | undefined) {
    if (token === null) return end("signed_out");

    try {
      const Socket = (options.WebSocket ?? globalThis.WebSocket) as unknown as
        (new (url: string, p: string) => Socket) | undefined;
      if (!Socket) throw new Error("no WebSocket: pass one");

      // By hand, since URLSearchParams is not whole in React Native.
      const { key, app, echo, store } = options;
      let address = url.replace(/^http/, "ws").replace(/\/*$/, "/v1/connect?");
      for (const [name, value] of Object.entries({ token, key, app, device, echo, store, resume }))
        if (value !== undefined) address += `${name}=${encodeURIComponent(value)}&`;

      const mine = turn;
      socket = new Socket(address, "fanfare.v1");
      socket.binaryType = "arraybuffer";
      socket.onmessage = ({ data }) => mine === turn && receive(data);
      socket.onclose = ({ code, reason }) => mine === turn && lost("lost", code, reason);
      socket.onerror = nothing;

      timer = setTimeout(lost, timeout, "silent");
      renewLater(token);
    } catch (error) {
      end("unusable", { error });
    }
  }

  function lost(reason: Reason, code = 1006, detail = "") {
    // The close frame can get lost after its announcement.
    if (bye && code < 4000) code = bye.code;

    if (state.connection) {
      // The server knows whether it still has what the connection had: it does if that broke, or was sent away.
      resume = state.connection;
      // A short connection was no success, unless the server says that another node is ready.
      if (code >= 4200 || Date.now() - welcomedAt > 5000) attempts = 0;
    }

    // A token in a string stays what it is.
    if (code >= 4000 && code < 4100 && (code !== 4005 || !isRenewable)) return end("refused", { code, detail });

    retry(reason, { code, detail });
  }

  function retry(reason: Reason, more: Partial<State> = {}) {
    disconnect(new FanfareError("connection_lost", "connection lost"));

    const delay = bye?.reconnect_in_ms ?? jitter(Math.min(advice.max_ms, advice.min_ms * 2 ** attempts++));

    timer = setTimeout(open, delay, "retry");
    set("waiting", reason, { ...more, delay });
  }

  // Stops everything that belongs to the present connection.
  function disconnect(error: FanfareError) {
    turn++;
    // The close event may take minutes where nothing comes any more, so it is not waited for.
    socket?.close(1000);
    socket = undefined;
    [timer, renewal, heart].forEach(clearTimeout);

    // What was sent may have been carried out, so it is not sent again.
    const gone = [...pending.values(), ...queue];
    pending.clear();
    queue = queue.filter((item) => error !== closing && item.keep);
    for (const item of gone) if (item.keep != null && !queue.includes(item)) item.done(error);
  }

  function end(reason: Reason, more: Partial<State> = {}) {
    if (is("closed")) return;

    closing = new FanfareError("closed", `closed: ${more.detail || more.error || reason}`);
    disconnect(closing);
    watchPage(wake, false);

    set("closed", reason, more);
    // A listener may have connected again.
    if (is("closed")) notices.fire("end");
  }

  // --- Staying connected ---

  function wake() {
    if (document.hidden) return;
    // The server said when to come back: it knows how many others do.
    if (is("waiting") && !bye?.reconnect_in_ms) open("wake");
    if (is("connected") && silence < 5) ping();
  }

  function ping() {
    silence = 5;
    transmit(encode({ op: "ping" }));
  }

  function beat(period: number) {
    let last = Date.now();

    heart = setInterval(() => {
      const now = Date.now();
      // After sleep the connection may be gone without a sign.
      if (silence < 4 && Math.abs(now - last) > 2 * period + 2000) silence = 4;
      last = now;

      if (++silence === 5) ping();
      else if (silence > 5 + timeout / 2 / period) lost("silent");
    }, period);
  }

  function renewLater(token: string | undefined) {
    if (isRenewable) renewIn(renewalDelay(token));
  }

  function renewIn(delay?: number) {
    clearTimeout(renewal);
    // A longer timer would fire immediately. One that sleep delayed is no harm: the server ends the connection in time.
    if (delay) renewal = setTimeout(renew, Math.min(delay, 2e9));
  }

  function renew() {
    return quiet(authenticate());
  }

  async function authenticate() {
    const mine = turn;
    // The next connection brings a new token by itself.
    if (!is("connected")) return;
    try {
      const token = await fetchToken();
      if (mine !== turn) return;
      if (token === null) return end("signed_out");

      await request({ op: "auth", token: token! }, { keep: false });
      renewLater(token);
    } catch (error) {
      if (mine !== turn) return;
      const { code } = error as FanfareError;
      if (code === "forbidden") return lost("user_changed");
      if (code !== "auth_off") {
        renewIn(5000);
        report(error);
      }
      throw error;
    }
  }

  // --- Sending ---

  function transmit(frame: string | Uint8Array) {
    try {
      socket?.send(frame);
    } catch {
      // The socket is closing. Its close event follows.
    }
  }

  // The server takes 50 messages a second from a user, over all tabs, and closes a connection after 100 refusals in a row.
  // So a burst is short, and a refusal leads to a pause, in which the other tabs send theirs.
  function pump() {
    if (!is("connected")) return;

    for (const item of queue.splice(0, credit)) {
      credit--;
      pending.set(item.id, item);
      transmit(item.frame);
    }
    if (credit < burst)
      pacer ??= setTimeout(() => {
        pacer = undefined;
        credit += 10;
        pump();
      }, 200);
  }

  // Puts a message in the queue. Joins and the profile are asked for before the state is `connected`: they go first.
  function ask(message: Outgoing, done: Request["done"], data?: unknown, keep?: boolean): Request {
    const header = { ...message, id: ++lastId };
    const item = { ...header, frame: encode(header, data), keep, done };

    // A profile takes the place of one that waits, and the answer is for both.
    if (item.op === "update")
      queue = queue.filter(
        (old) => old.op !== item.op || void (item.done = (error, ack) => (old.done(error, ack), done(error, ack))),
      );

    if (keep || is("connected")) queue.push(item);
    else queue.unshift(item);
    pump();
    return item;
  }

  function request(message: Outgoing, opts: SendOptions & { keep?: boolean }, data?: unknown): Promise<Frame> {
    const { signal, timeout: limit = timeout, keep = true } = opts;

    return quiet(
      new Promise((resolve, reject) => {
        if (signal?.aborted) throw signal.reason;
        if (is("closed")) throw closing;
        if (keep && !is("connected") && queue.length >= queueLimit)
          throw new FanfareError("queue_full", `${queueLimit} queued`);

        const done = (error: unknown, ack?: Frame) => {
          clearTimeout(deadline);
          signal?.removeEventListener("abort", abort);
          if (error) reject(error);
          else resolve(ack!);
        };
        const item = ask(message, done, data, keep);
        const cancel = (error: unknown) => {
          queue = queue.filter((other) => other !== item);
          pending.delete(item.id);
          done(error);
        };
        const abort = () => cancel(signal!.reason);
        const deadline = setTimeout(() => cancel(late(limit)), limit);
        signal?.addEventListener("abort", abort);
      }),
    );
  }

  function sending(opts: SendOptions): Sending<E> {
    const { echo, except } = opts;
    const emit = (target: Target, args: readonly unknown[]) =>
      request({ ...target, echo, except }, opts, args.length > 1 ? args : args[0]);

    return {
      send: (channel, event, ...args) => emit({ op: "send", channel, event }, args),
      broadcast: (event, ...args) => emit({ op: "broadcast", event }, args),
      publish: (users, event, ...args) => emit({ op: "publish", users: [users].flat(), event }, args),
      update: (data) => request({ op: "update" }, opts, (profile = data)),
      call: (name, data) => quiet(request({ op: "call", name }, opts, data).then((ack) => ack.data)),
      with: (more) => sending({ ...opts, ...more }),
    };
  }

  // --- Receiving ---

  function receive(data: unknown) {
    silence = 0;
    let frame: Frame;
    let op: Frame["op"];
    try {
      frame = decode(data);
      // `null` is JSON, and has no fields.
      ({ op } = frame);
    } catch (cause) {
      return report(new FanfareError("bad_frame", `${cause}`));
    }

    const member = channels.get(frame.channel!);
    if (frame.event) take(frame, member);
    else if (op === "welcome") welcome(frame);
    else if (op === "bye") bye = frame as Bye;
    else if (op === "ack" || op === "error") answer(frame);
    else member?.notice(frame);
  }

  function answer(frame: Frame) {
    const { id, code } = frame;
    const item = pending.get(id!);
    const error = frame.op === "error" && new FanfareError(code as string, frame.message!);
    pending.delete(id!);

    if (code === "rate_limited") credit = -50;
    if (item) item.done(error, frame);
    // An error without an id belongs to no call. One with an id is of a call that no longer waits.
    else if (error && id == null) report(error);
  }

  function welcome(frame: Frame) {
    const { connection, user, resumed } = frame;
    clearTimeout(timer);
    welcomedAt = Date.now();
    advice = { ...advice, ...frame.reconnect };
    resume = undefined;

    for (const channel of channels.values()) channel.sync();
    if (profile !== undefined && !resumed) tellProfile();

    beat((frame.heartbeat || 25) * 200);
    set("connected", resumed ? "resumed" : "welcome", { connection: connection!, user: user! });
    pump();
  }

  function tellProfile() {
    ask({ op: "update" }, (error) => mayPass(error) && setTimeout(tellProfile, jitter(1000)), profile, false);
  }

  function take(frame: Frame, member: Membership | undefined) {
    const { event, id } = frame;
    // A stored event comes again if the connection ended before its arrival was confirmed.
    if (id) {
      if (seen.has(id)) return;
      const [oldest] = seen.add(id);
      if (seen.size > 1000) seen.delete(oldest!);
    }
    if (member && !member.accept(frame)) return;

    const schema = options.schemas?.[event as keyof E]?.["~standard"];
    const checked = schema?.validate(frame.data) as Validated | undefined;
    if (checked?.issues) return report(new FanfareError("invalid_data", `${event}: ${checked.issues[0]?.message}`));
    if (checked) frame.data = checked.value;

    member?.deliver(frame as Message);
    deliver(frame as Message);
  }

  // --- Channels ---

  function join(name: string, opts: JoinOptions = {}): Channel<E> {
    let member = channels.get(name);
    const hasToAsk = !member || member.extend(opts);
    channels.set(name, (member ??= membership(name, opts, sender.send as Send, leave)));
    if (hasToAsk && is("connected")) member.sync();
    return member.handle as unknown as Channel<E>;
  }

  // A channel that was left before may be joined again meanwhile: `member` says which one is meant.
  async function leave(channel: string, member = channels.get(channel)): Promise<void> {
    if (channels.get(channel) !== member) return;

    member?.notice({ op: "left" });
    // The API may have put the client into a channel that it did not join itself.
    try {
      if (is("connected")) await request({ op: "leave", channel }, { keep: false });
    } finally {
      // Without the server's answer, a connection that resumes would be in the channel again.
      resume = undefined;
    }
  }

  async function members(channel: string, opts: SendOptions = {}) {
    const found = new Map<string, Member>();
    let cursor: string | undefined;
    do cursor = collect(await request({ op: "members", channel, cursor, limit: 1000 }, opts), found);
    while (cursor);
    return [...found.values()];
  }

  return {
    ...methods,
    ...sender,
    get state() {
      return state;
    },

    connect: () =>
      quiet(
        new Promise((resolve, reject) => {
          const check = () => {
            if (is("connected")) resolve(stop());
            if (is("closed")) {
              stop();
              reject(closing);
            }
          };
          const stop = notices.add("state", check);
          if (is("idle") || is("closed")) open("connect");
          else check();
        }),
      ),
    close: () => end("closed"),
    renew,
    join,
    leave: (channel) => quiet(leave(channel)),
    members: (channel, opts) => quiet(members(channel, opts)),
    onState: (listener, opts) => notices.add("state", listener, opts),
    onError: (listener, opts) => errors.add("error", listener, opts),
    [Symbol.asyncDispose]: async () => end("closed"),
  };
}
