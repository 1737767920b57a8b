import { FanfareError } from "./error.js";
import type { Frame, Outgoing } from "./frames.js";
import { listening, registry } from "./listeners.js";
import { jitter, mayPass, quiet } from "./timing.js";
import type { Ack, Channel, ChannelState, JoinOptions, Member, Message, Position } from "./types.js";

/** A channel, as its client sees it. */
export interface Membership {
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
  /** Takes further options. Returns whether the server has to be asked for more. */
  extend(options: JoinOptions): boolean | undefined;
}

/** Sends a message. `done` gets the answer, unless the connection ends before. */
type Ask = (message: Outgoing, done: (error: unknown, ack?: Frame) => unknown) => unknown;

/** The `send` of a client, whatever its events are. */
export type Send = (channel: string, ...args: unknown[]) => Promise<Ack>;
type Leave = (channel: string, member: Membership) => Promise<void>;

/** Takes the members of a page. Returns the cursor of the next one. */
export const collect = (page: Frame, into: Map<string, Member>): string | undefined => {
  for (const member of page.members ?? []) into.set(member.id, member);
  return page.cursor;
};

/**
 * Makes the channels of one client. Each is joined again after every reconnect, until it is left.
 *
 * ```text
 *                  ack                    the connection ends
 *  waiting ───────────────────► joined ─────────────────────────► waiting
 *     │                           │
 *     ├── refused for good ──► refused
 *     └── leave, `left` ───────► left ◄── leave, `left` (from joined as well)
 * ```
 */
export const memberships =
  (channels: Map<string, Membership>, ask: Ask, report: (error: unknown) => void) =>
  (name: string, options: JoinOptions, send: Send, leave: Leave): Membership => {
    const notices = registry(report);
    const [methods, deliver] = listening<never>(notices, report);
    let state: ChannelState = { status: "waiting" };
    let timer: ReturnType<typeof setTimeout> | undefined;

    let resolve: () => void;
    let reject: (error: unknown) => void;
    const joined = quiet(new Promise<void>((...both) => ([resolve, reject] = both)));

    // What was delivered last. Without an offset the channel has no history, as far as is known.
    let { epoch, offset }: Partial<Position> = options.since ?? {};
    // Whether a `join` with `since` is under way, so that all events after `offset` come after its ack.
    let replaying = false;
    // Whether the client was a member before.
    let known = false;

    let { members: wanted } = options;
    let count = 0;
    let members: readonly Member[] = [];
    let list = new Map<string, Member>();
    // The list that is being fetched. It replaces `list` when its last page is there.
    let next: typeof list | undefined;

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

    // --- Joining ---

    function position() {
      return offset === undefined ? offset : { epoch, offset };
    }

    function sync() {
      const since = position();
      replaying = !!since;

      ask({ op: "join", channel: name, members: wanted, since }, (error, ack) => {
        if (channels.get(name) !== self) return;

        // The gap stays open until the ack, even where this is asked again.
        if (error) {
          if (!mayPass(error)) return over({ status: "refused", error: error as FanfareError });
          // The list of members that may be waited for comes with the ack.
          forget();
          return later(sync, 1000);
        }

        replaying = false;
        // Offsets count from the beginning where this is another life of the history.
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

    // The server put the client into the channel, or the history began another life. While a join is under way its ack says
    // the same.
    function goOn(frame: Frame) {
      if (state.status !== "joined" || frame.offset === undefined) return;

      const missed = !frame.recovered && (frame.epoch !== epoch || frame.offset > offset!);
      epoch = frame.epoch;
      if (missed) {
        offset = frame.offset;
        change({ status: "joined", recovered: false });
      }
    }

    function forget() {
      clearTimeout(timer);
      timer = next = undefined;
    }

    function down() {
      forget();
      replaying = false;
      if (state.status === "joined") change({ status: "waiting" });
    }

    function over(to: ChannelState) {
      channels.delete(name);
      change(to);
      down();
      reject(to.error ?? new FanfareError("left", "left"));
    }

    // --- Members ---

    // Takes a page into a list that is being fetched, and asks for the one after it. Notices that come meanwhile change both
    // lists, so none is lost and none is undone.
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

    function memberChanged({ kind, member, previous }: Frame) {
      for (const map of [list, next]) {
        map?.delete(kind === "left" ? member!.id : previous!);
        if (kind !== "left") map?.set(member!.id, member!);
      }
      count = list.size;
      show();
    }

    // More changed than the server reports one by one. A long list is fetched less often.
    function membersChanged(frame: Frame) {
      count = frame.count ?? count;
      show();
      later(refresh, 2000 + count);
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
      send: (...args) => send(name, ...args),
      leave: () => quiet(leave(name, self)),
    };

    const self: Membership = {
      handle,
      sync,
      deliver,
      down,

      accept(message) {
        const at = message.offset;
        // Without an offset of its own the channel takes any.
        if (at !== undefined) {
          if (replaying || at <= offset!) return false;
          offset = at;
        }
        return true;
      },

      notice(frame) {
        const { op } = frame;
        if (op === "left") over({ status: "left" });
        if (op === "joined") goOn(frame);
        if (op === "member" && wanted && frame.member) memberChanged(frame);
        if (op === "members" && wanted) membersChanged(frame);
      },

      extend: (more) => !wanted && (wanted = more.members),
    };

    // Node would throw the rejection of a promise that the listener returned.
    options.signal?.addEventListener("abort", () => void handle.leave());
    return self;
  };
