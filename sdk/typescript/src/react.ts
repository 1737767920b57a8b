/** React hooks. The client is made outside: `const client = createClient(url, options)`. */
import { useCallback, useEffect, useMemo, useRef, useSyncExternalStore } from "react";
import type { Channel, ChannelState, Client, EventName, JoinOptions, Member, Message, State } from "./types.js";

/** A hook does nothing without a client, for example until somebody signed in. */
export type MaybeClient<E extends object> = Client<E> | null | undefined;

/** What `useChannel` returns. */
export interface UsedChannel<E extends object> extends ChannelState {
  /** The channel, once the component is mounted. */
  readonly channel: Channel<E> | undefined;
}

/** What the mounted components use of a client. */
interface Used {
  /** How many hooks need the connection. */
  count: number;
  /** Whether a hook connected the client, so that the last one closes it. */
  isOurs: boolean;
  readonly channels: Map<string, { count: number; readonly channel: Channel<never> }>;
}

const used = new WeakMap<object, Used>();
const noMembers: readonly Member[] = [];
const waiting: ChannelState = { status: "waiting" };
const idle: State = { status: "idle", reason: "created" };
const nothing = (): void => {};

// A release counts a tick later: StrictMode, and a component that takes another's place, mount again right away.
const later = (run: () => void) => setTimeout(run);

function retain(client: Client<never>): () => void {
  let uses = used.get(client);
  if (!uses) used.set(client, (uses = { count: 0, isOurs: false, channels: new Map() }));
  const mine = uses;

  mine.count++;
  const { status } = client.state;
  if (status === "idle" || (mine.count === 1 && status === "closed")) {
    mine.isOurs = true;
    void client.connect();
  }

  return () =>
    void later(() => {
      if (--mine.count || !mine.isOurs) return;
      mine.isOurs = false;
      client.close();
    });
}

function retainChannel(client: Client<never>, name: string, options: JoinOptions): [Channel<never>, () => void] {
  const release = retain(client);
  const { channels } = used.get(client)!;

  // The server may have taken the client out, or refused it: then this asks again.
  let entry = channels.get(name);
  const channel = client.join(name, options);
  if (entry?.channel !== channel) channels.set(name, (entry = { count: 0, channel }));
  const mine = entry;
  mine.count++;

  return [
    channel,
    () => {
      later(() => {
        if (--mine.count) return;
        if (channels.get(name) === mine) channels.delete(name);
        void channel.leave();
      });
      release();
    },
  ];
}

function channelOf<E extends object>(client: MaybeClient<E>, name: string | null | undefined): Channel<E> | undefined {
  return client && name != null
    ? (used.get(client)?.channels.get(name)?.channel as unknown as Channel<E> | undefined)
    : undefined;
}

/** The state of a client. Connects it while a component with this or another hook is mounted. */
export function useConnection<E extends object>(client: MaybeClient<E>): State {
  const subscribe = useCallback(
    (changed: () => void) => {
      if (!client) return nothing;
      const stop = client.onState(changed);
      const release = retain(client as unknown as Client<never>);
      return () => {
        stop();
        release();
      };
    },
    [client],
  );
  return useSyncExternalStore(
    subscribe,
    () => client?.state ?? idle,
    () => idle,
  );
}

/** Joins a channel while the component is mounted, and returns its state. */
export function useChannel<E extends object>(
  client: MaybeClient<E>,
  name: string | null | undefined,
  options: Pick<JoinOptions, "members"> = {},
): UsedChannel<E> {
  const { members = false } = options;
  const subscribe = useCallback(
    (changed: () => void) => join(client, name, members, (channel) => channel.onState(changed)),
    [client, name, members],
  );
  const state = useSyncExternalStore(
    subscribe,
    () => channelOf(client, name)?.state ?? waiting,
    () => waiting,
  );
  const channel = channelOf(client, name);
  return useMemo(() => ({ ...state, channel }), [state, channel]);
}

/** The members of a channel, which is joined while the component is mounted. */
export function useMembers<E extends object>(
  client: MaybeClient<E>,
  name: string | null | undefined,
): readonly Member[] {
  const subscribe = useCallback(
    (changed: () => void) => join(client, name, true, (channel) => channel.onMembers(changed)),
    [client, name],
  );
  return useSyncExternalStore(
    subscribe,
    () => channelOf(client, name)?.members ?? noMembers,
    () => noMembers,
  );
}

/**
 * Calls `listener` for every event of this name, or for those of one channel, which is joined. The listener may be
 * another function in each render.
 */
export function useEvent<E extends object, K extends EventName<E>>(
  client: MaybeClient<E>,
  event: K,
  listener: (data: E[K], message: Message<E[K], K>) => void,
  options: { readonly channel?: string | undefined } = {},
): void {
  const { channel: name } = options;
  const latest = useRef(listener);
  useEffect(() => {
    latest.current = listener;
  });

  useEffect(() => {
    if (!client) return;
    const call = (data: E[K], message: Message<E[K], K>) => latest.current(data, message);
    if (name != null) return join(client, name, false, (channel) => channel.on(event, call));

    const stop = client.on(event, call);
    const release = retain(client as unknown as Client<never>);
    return () => {
      stop();
      release();
    };
  }, [client, event, name]);
}

function join<E extends object>(
  client: MaybeClient<E>,
  name: string | null | undefined,
  members: boolean,
  listen: (channel: Channel<E>) => () => void,
): () => void {
  if (!client || name == null) return nothing;
  const [channel, release] = retainChannel(client as unknown as Client<never>, name, { members });
  const stop = listen(channel as unknown as Channel<E>);
  return () => {
    stop();
    release();
  };
}
