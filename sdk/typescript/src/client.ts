import { FanfareError } from "./error.js";
import { listening, registry } from "./listeners.js";
import type { Broadcast, Bye, ClientMessage, Id, Publish, Send, ServerMessage } from "./protocol.js";
import type {
  Ack,
  AnyEvents,
  Channel,
  ChannelState,
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

type Names<T> = T extends unknown ? keyof T : never;
type Field<T, K> = T extends unknown ? (K extends keyof T ? T[K] : never) : never;
type Without<T, K extends string> = T extends unknown ? Omit<T, K> : never;

/** What the server sends. Every field may be absent, since other versions of the server may send other frames. */
type Frame = { [K in Names<ServerMessage>]?: Field<ServerMessage, K> };

/** What the client sends, less the fields that are added on the way. */
type Call = Without<ClientMessage, "id" | "data">;
type Event = Without<Send | Broadcast | Publish, "id" | "data" | "echo" | "except">;

/** What a schema returns, with both forms in one. */
interface Validated {
  readonly issues?: readonly { readonly message: string }[];
  readonly value?: unknown;
}

/** A message that waits for a connection, or for its ack. */
interface Request {
  readonly id: number;
  readonly frame: string | Uint8Array;
  /** Whether it waits for the next connection, if it was not sent on this one. */
  readonly keep: boolean;
  /** Called once, and before any later frame is looked at. */
  done(error: unknown, ack?: Frame): unknown;
}

/** A channel, as the rest of the client sees it. */
interface Membership {
  readonly handle: Channel<never>;
  /** Asks to join, with what is known. */
  sync(): void;
  /** Takes an event. Returns whether it is new. */
  accept(message: Frame): boolean;
  deliver(message: Message): void;
  /** Takes a notice of the server. */
  notice(frame: Frame): void;
  /** The connection is gone. */
  down(): void;
  /** The client is not a member any more, and does not ask to be. */
  over(state: ChannelState): void;
  /** More is wanted of the channel. */
  extend(options: JoinOptions): void;
}

// Messages that may be sent at the same time. An anonymous client has as many when it comes.
const burst = 20;

// Refusals that pass. The server did not look at the message.
const mayPass = (error: unknown) => /busy|rate_limited|unavailable|internal/.test((error as FanfareError).code);

const nothing = (): void => {};

const collect = (page: Frame, into: Map<string, Member>) => {
  for (const member of page.members ?? []) into.set(member.id, member);
  return page.cursor;
};

// A promise that nobody awaits must not end a Node process.
const quiet = <T>(promise: Promise<T>): Promise<T> => (promise.catch(nothing), promise);

// Half of the time is certain, so that a wait stays a wait.
const jitter = (delay: number) => delay * (0.5 + Math.random() / 2);

const late = (limit: number) => new FanfareError("timeout", `no answer in ${limit} ms`);

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
  const device = options.device ?? Math.random().toString(36).slice(2);

  const errors = registry(console.error);
  const notices = registry(report);
  const [methods, deliver] = listening<E>(notices, report);
  const sender = sending({});
  const channels = new Map<string, Membership>();

  let state: State = { status: "idle", reason: "created" };
  let closing: FanfareError;

  // The present attempt or connection. What belongs to an earlier one is ignored.
  let turn = 0;
  let socket: Socket | undefined;
  let welcomedAt = 0;
  let attempts = 0;
  let advice = { min_ms: 500, max_ms: 30_000 };
  let bye: Bye | undefined;
  // The id of a connection that ended without a close frame.
  let resume: string | undefined;

  let timer: ReturnType<typeof setTimeout> | undefined;
  let heart: ReturnType<typeof setTimeout> | undefined;
  let renewal: ReturnType<typeof setTimeout> | undefined;
  let pacer: ReturnType<typeof setTimeout> | undefined;
  // Beats of the heart since the last frame. There are five in the server's heartbeat.
  let silence = 0;
  let fetching: Promise<string | null | undefined> | undefined;

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
    watch(true);
    set("connecting", reason);

    // A listener may have closed the client.
    if (mine !== turn) return;
    fetchToken().then(
      (token) => mine === turn && dial(token),
      (error) => mine === turn && retry("token_failed", { error }),
    );
  }

  // All who need a token at the same time share one call. One that hangs is given up.
  function fetchToken(): Promise<string | null | undefined> {
    let deadline: ReturnType<typeof setTimeout>;
    fetching ??= new Promise<string | null | undefined>((resolve, reject) => {
      deadline = setTimeout(() => reject(late(timeout)), timeout);
      (async () => (isRenewable ? source() : source))().then(resolve, reject);
    }).finally(() => {
      clearTimeout(deadline);
      fetching = undefined;
    });
    return fetching;
  }

  function dial(token: string | null | undefined) {
    if (token === null) return end("signed_out");

    try {
      const Socket = (options.WebSocket ?? globalThis.WebSocket) as unknown as
        (new (url: string, p: string) => Socket) | undefined;
      if (!Socket) throw new Error("no WebSocket: pass the option WebSocket");

      // By hand, since URLSearchParams is not whole in React Native.
      const { key, app, echo, store } = options;
      let address = url.replace(/^http/, "ws").replace(/\/*$/, "/v1/connect?");
      for (const [name, value] of Object.entries({ token, key, app, device, echo, store, resume }))
        if (value !== undefined) address += `${name}=${encodeURIComponent(value)}&`;

      const mine = (socket = new Socket(address, "fanfare.v1"));
      mine.binaryType = "arraybuffer";
      mine.onmessage = ({ data }) => mine === socket && receive(data);
      mine.onclose = ({ code, reason }) => mine === socket && lost(code, reason);
      mine.onerror = nothing;
    } catch (error) {
      return end("unusable", { error });
    }

    timer = setTimeout(hangUp, timeout, "silent");
    renewLater(token);
  }

  // Ends a connection. Its close event may take minutes where nothing comes any more, so it is not waited for.
  function hangUp(reason: Reason) {
    const old = socket;
    lost(1006, "", reason);
    old?.close();
  }

  function lost(code: number, detail: string, reason: Reason = "lost") {
    // The close frame can get lost after its announcement.
    if (bye && code < 4000) code = bye.code;

    if (state.connection) {
      // Only a connection without a close frame can be resumed.
      resume = code === 1006 ? state.connection : undefined;
      // A short connection was no success, unless the server says that another node is ready.
      if (code >= 4200 || Date.now() - welcomedAt > 5000) attempts = 0;
    }

    // A token in a string stays what it is.
    if (code >= 4000 && code < 4100 && (code !== 4005 || !isRenewable)) return end("refused", { code, detail });

    retry(reason, { code, detail });
  }

  function retry(reason: Reason, more: Partial<State> = {}) {
    disconnect(new FanfareError("connection_lost", "the connection ended"));

    const delay = bye?.reconnect_in_ms ?? jitter(Math.min(advice.max_ms, advice.min_ms * 2 ** attempts++));

    timer = setTimeout(() => open("retry"), delay);
    stopped("waiting", reason, { ...more, delay });
  }

  // Stops everything that belongs to the present connection.
  function disconnect(error: FanfareError, goesOn = true) {
    turn++;
    socket = undefined;
    for (const each of [timer, renewal, pacer, heart]) clearTimeout(each);
    pacer = undefined;

    // What was sent may have been carried out, so it is not sent again.
    const stays = (item: Request) => goesOn && item.keep;
    const gone = [...pending.values(), ...queue.filter((item) => !stays(item))];
    pending.clear();
    queue = queue.filter(stays);
    for (const item of gone) item.done(error);
  }

  // Channels come after the client, so that what their listeners send waits for the next connection.
  function stopped(status: State["status"], reason: Reason, more: Partial<State>) {
    set(status, reason, more);
    for (const channel of channels.values()) channel.down();
  }

  function end(reason: Reason, more: Partial<State> = {}) {
    if (is("closed")) return;

    const old = socket;
    closing = new FanfareError("closed", `closed: ${reason} ${more.detail ?? more.error ?? ""}`.trim());
    disconnect(closing, false);
    old?.close(1000);
    watch(false);

    stopped("closed", reason, more);
    // A listener may have connected again.
    if (is("closed")) notices.fire("end");
  }

  // --- Staying connected ---

  // A page knows when the network or its user comes back.
  function watch(begin: boolean) {
    const change = begin ? "addEventListener" : "removeEventListener";
    const { document } = globalThis;
    document?.[change]?.("visibilitychange", wake);
    // Only in a page: other runtimes have a global addEventListener for other things.
    if (document) globalThis[change]?.("online", wake);
  }

  function wake() {
    if (document.visibilityState === "hidden") return;
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
    silence = 0;

    heart = setInterval(() => {
      const now = Date.now();
      // After sleep the connection may be gone without a sign.
      if (silence < 4 && Math.abs(now - last) > 2 * period + 2000) silence = 4;
      last = now;

      if (++silence === 5) ping();
      else if (silence > 5 + timeout / 2 / period) hangUp("silent");
    }, period);
  }

  function renewLater(token: string | undefined) {
    if (!isRenewable) return;
    try {
      const { exp, iat } = JSON.parse(atob(token!.split(".")[1]!.replace(/-/g, "+").replace(/_/g, "/")));
      // Where the token seems to have ended, this clock is wrong, and only that of the signer counts.
      const left = exp * 1000 - Date.now();
      const life = left > 0 ? left : (exp - iat) * 1000;
      if (life > 0) renewIn(Math.max(life * 0.8, 1000));
    } catch {
      // Another kind of token, or none. The server says when it ends.
    }
  }

  function renewIn(delay: number) {
    clearTimeout(renewal);
    // A longer timer would fire immediately. One that sleep delayed is no harm: the server ends the connection in time.
    renewal = setTimeout(renew, Math.min(delay, 2e9));
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
      if (mine === turn) renewLater(token);
    } catch (error) {
      if (mine !== turn) return;
      const { code } = error as FanfareError;
      if (code === "forbidden") {
        return hangUp("user_changed");
      }
      if (code !== "auth_off") {
        renewIn(5000);
        report(error);
      }
      throw error;
    }
  }

  // --- Sending ---

  // `data` is passed apart, since bytes go after the header.
  function encode(message: object, data?: unknown): string | Uint8Array {
    const bytes =
      data instanceof ArrayBuffer
        ? new Uint8Array(data)
        : ArrayBuffer.isView(data) && new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    if (!bytes) return JSON.stringify({ ...message, data });

    const header = new TextEncoder().encode(JSON.stringify(message));
    const frame = new Uint8Array(3 + header.length + bytes.length);
    frame.set([1, header.length >> 8, header.length]);
    frame.set(header, 3);
    frame.set(bytes, 3 + header.length);
    return frame;
  }

  function transmit(frame: string | Uint8Array) {
    try {
      socket?.send(frame);
    } catch {
      // The socket is closing. Its close event follows.
    }
  }

  // The server takes 50 messages a second of a user, over all tabs, and closes who goes on after 100 refusals. So a burst is
  // short, and a refusal leads to a pause, in which the other tabs get their turn.
  function pump() {
    if (!is("connected")) return;

    for (const item of queue.splice(0, credit)) {
      credit--;
      pending.set(item.id, item);
      transmit(item.frame);
    }
    if (credit < burst) pacer ??= setTimeout(earn, 200);
  }

  function earn() {
    pacer = undefined;
    credit = Math.min(burst, credit + 10);
    pump();
  }

  // Puts a message in the queue. Joins and the profile are asked for before the state is `connected`: they go first.
  function ask(message: Call, done: Request["done"], data?: unknown, keep = false): Request {
    const id = ++lastId;
    const item = { id, frame: encode({ ...message, id }, data), keep, done };

    if (keep || is("connected")) queue.push(item);
    else queue.unshift(item);
    pump();
    return item;
  }

  function request(message: Call, opts: SendOptions & { keep?: boolean }, data?: unknown): Promise<Frame> {
    const { signal, timeout: limit = timeout, keep = true } = opts;

    return quiet(
      new Promise((resolve, reject) => {
        if (signal?.aborted) throw signal.reason;
        if (is("closed")) throw closing;
        if (keep && !is("connected") && queue.length >= queueLimit)
          throw new FanfareError("queue_full", `${queueLimit} messages wait`);

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
          item.done(error);
        };
        const abort = () => cancel(signal!.reason);
        const deadline = setTimeout(() => cancel(late(limit)), limit);
        signal?.addEventListener("abort", abort);
      }),
    );
  }

  function sending(opts: SendOptions): Sending<E> {
    const { echo, except } = opts;
    const emit = (target: Event, args: readonly unknown[]) =>
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
    let id: Frame["id"];
    try {
      if (typeof data === "string") frame = JSON.parse(data);
      else {
        const bytes = new Uint8Array(data as ArrayBuffer);
        const start = 3 + bytes[1]! * 256 + bytes[2]!;
        frame = JSON.parse(new TextDecoder().decode(bytes.subarray(3, start)));
        frame.data = bytes.subarray(start);
      }
      ({ op, id } = frame);
    } catch (cause) {
      return report(new FanfareError("bad_frame", `${cause}`));
    }

    const member = channels.get(frame.channel!);
    if (frame.event) take(frame, member);
    else if (op === "welcome") welcome(frame);
    else if (op === "bye") bye = frame as Bye;
    else if (op === "ack" || op === "error") {
      const item = pending.get(id!);
      const error = op === "error" && new FanfareError(frame.code as string, frame.message!);
      pending.delete(id!);
      if (frame.code === "rate_limited") credit = -50;
      if (item) item.done(error, frame);
      // An error without an id belongs to no call. One with an id is of a call that no longer waits.
      else if (error && id == null) report(error);
    } else member?.notice(frame);
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
    const done = (error: unknown) => error && mayPass(error) && setTimeout(tellProfile, jitter(1000));
    ask({ op: "update" }, done, profile);
  }

  function take(frame: Frame, member: Membership | undefined) {
    const { event, id } = frame;
    // A stored event comes again if the connection ended before its arrival was confirmed.
    if (id) {
      if (seen.has(id)) return;
      seen.add(id);
      const [oldest] = seen;
      if (seen.size > 1000) seen.delete(oldest!);
    }
    if (member && !member.accept(frame)) return;

    const schema = options.schemas?.[event as keyof E]?.["~standard"];
    const { issues, value } = (schema?.validate(frame.data) ?? { value: frame.data }) as Validated;
    if (issues) return report(new FanfareError("invalid_data", `${event}: ${issues[0]?.message}`));
    frame.data = value;

    member?.deliver(frame as Message);
    deliver(frame as Message);
  }

  // --- Channels ---

  function membership(name: string, opts: JoinOptions): Membership {
    const notices = registry(report);
    const [methods, deliver] = listening<never>(notices, report);
    let state: ChannelState = { status: "waiting" };
    let { members: wanted } = opts;
    let members: readonly Member[] = [];
    let count = 0;

    // What was delivered last. Without an offset the channel has no history, as far as is known.
    let epoch = opts.since?.epoch;
    let offset = opts.since?.offset;
    // Whether a `join` with `since` is under way, so that all events after `offset` come after its ack.
    let replaying = false;
    // Whether the client was a member before.
    let known = false;

    let list = new Map<string, Member>();
    // The list that is being fetched. It replaces `list` when its last page is there.
    let next: typeof list | undefined;
    let timer: ReturnType<typeof setTimeout> | undefined;

    let resolve: () => void;
    let reject: (error: unknown) => void;
    const joined = quiet(new Promise<void>((...both) => ([resolve, reject] = both)));

    function change(to: ChannelState) {
      state = to;
      notices.fire("state", to);
    }

    function later(run: () => void, delay: number) {
      timer ??= setTimeout(() => {
        timer = undefined;
        run();
      }, jitter(delay));
    }

    function position() {
      return offset === undefined ? undefined : { epoch, offset };
    }

    function sync() {
      const since = position();
      const mine = turn;
      replaying = !!since;

      ask({ op: "join", channel: name, members: wanted, since }, (error, ack) => {
        // The next welcome asks again.
        if (channels.get(name) !== self || mine !== turn) return;

        // The gap stays open until the ack, even where this is asked again.
        if (error) {
          if (mayPass(error)) return later(sync, 1000);
          return over({ status: "refused", error: error as FanfareError });
        }

        replaying = false;
        // Offsets count anew where this is another life of the history.
        if (!since || ack!.offset === undefined) offset = ack!.offset;
        else if (!ack!.recovered && ack!.epoch !== epoch) offset = 0;
        epoch = ack!.epoch;

        const recovered = since ? !!ack!.recovered : !known;
        known = true;
        if (wanted) fill((next = new Map()), ack!);
        change({ status: "joined", recovered });
        resolve();
      });
    }

    // Takes a page into a list that is being fetched, and asks for the one after it. Notices that come meanwhile change
    // both lists, so none is lost and none is undone.
    function fill(mine: typeof list, page: Frame) {
      const cursor = collect(page, mine);
      count = page.count ?? count;
      if (cursor) return fetchPage(mine, cursor);

      list = mine;
      next = undefined;
      show();
    }

    function fetchPage(mine: typeof list, cursor?: string) {
      ask({ op: "members", channel: name, cursor, limit: 1000 }, (error, page) => {
        if (mine !== next) return;
        if (error) later(refresh, 2000);
        else fill(mine, page!);
      });
    }

    function refresh() {
      fetchPage((next = new Map()));
    }

    function show() {
      members = [...list.values()];
      notices.fire("members", members);
    }

    function down() {
      clearTimeout(timer);
      timer = next = undefined;
      replaying = false;
    }

    function over(to: ChannelState) {
      channels.delete(name);
      down();
      change(to);
      reject(to.error ?? new FanfareError("left", "left the channel"));
    }

    const handle: Channel<never> = {
      ...methods,
      name,
      get state() {
        return state;
      },
      joined,
      get members() {
        return members;
      },
      get count() {
        return count;
      },
      get position() {
        return position();
      },
      onState: (listener, options) => notices.add("state", listener, options),
      onMembers: (listener, options) => notices.add("members", listener, options),
      send: (event, ...args) =>
        (sender.send as (...all: unknown[]) => Promise<Ack>)(name, event, ...(args as unknown[])),
      leave: () => leave(name, self),
    };

    const self: Membership = {
      handle,
      sync,
      deliver,
      over,

      accept(message) {
        const at = message.offset;
        // Without an offset of its own the channel takes any.
        const isNew = at === undefined || (!replaying && !(at <= offset!));
        if (isNew) offset = at ?? offset;
        return isNew;
      },

      notice(frame) {
        const { op, kind, member, previous } = frame;

        if (op === "left") over({ status: "left" });

        // The server put the client into the channel, or the history began another life. While a join is under way its
        // ack says the same.
        if (op === "joined" && state.status === "joined" && frame.offset !== undefined) {
          const missed = !frame.recovered && (frame.epoch !== epoch || frame.offset > offset!);
          epoch = frame.epoch;
          if (missed) {
            offset = frame.offset;
            change({ status: "joined", recovered: false });
          }
        }

        if (op === "member" && wanted && member) {
          for (const map of [list, next]) {
            map?.delete(kind === "left" ? member.id : previous!);
            if (kind !== "left") map?.set(member.id, member);
          }
          count = list.size;
          show();
        }

        // Too much changes to be told one by one. A long list is fetched less often.
        if (op === "members" && wanted) {
          count = frame.count ?? count;
          show();
          later(refresh, 2000 + count);
        }
      },

      down() {
        down();
        if (state.status === "joined") change({ status: "waiting" });
      },

      extend(more) {
        if (!more.members || wanted) return;
        wanted = true;
        if (is("connected")) sync();
      },
    };

    // Node would throw the rejection of a promise that the listener returned.
    opts.signal?.addEventListener("abort", () => void handle.leave());
    return self;
  }

  function join(name: string, opts: JoinOptions = {}): Channel<E> {
    let member = channels.get(name);
    if (member) member.extend(opts);
    else {
      channels.set(name, (member = membership(name, opts)));
      if (is("connected")) member.sync();
    }
    return member.handle as unknown as Channel<E>;
  }

  // A channel that was left before may be joined again meanwhile: `member` says which one is meant.
  function leave(channel: string, member = channels.get(channel)): Promise<void> {
    const isPresent = channels.get(channel) === member;
    if (isPresent) member?.over({ status: "left" });
    // The API may have put the client into a channel that it did not join itself.
    return (
      isPresent && is("connected") ? request({ op: "leave", channel }, { keep: false }) : Promise.resolve()
    ) as Promise<void>;
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
            if (is("connected")) resolve();
            else if (is("closed")) reject(closing);
            else return;
            stop();
          };
          const stop = notices.add("state", check);
          if (is("idle") || is("closed")) open("connect");
          else check();
        }),
      ),
    close: () => end("closed"),
    renew,
    join,
    leave,
    members: (channel, opts) => quiet(members(channel, opts)),
    onState: (listener, opts) => notices.add("state", listener, opts),
    onError: (listener, opts) => errors.add("error", listener, opts),
    [Symbol.asyncDispose]: async () => end("closed"),
  };
}
