import { FanfareError } from "./error.js";
import type { ListenOptions, Listening, Message, StreamOptions } from "./types.js";

type Listener = (...args: never[]) => void;
type Run = (...args: unknown[]) => void;

interface Entry {
  readonly listener: Listener;
  readonly run: Run;
  release(): void;
}

/** Lists of listeners by key. */
export interface Registry {
  readonly lists: Map<string, Entry[]>;
  of(key: string): Entry[];
  add(key: string, listener: Listener, options?: ListenOptions, once?: boolean, run?: Run): () => void;
  fire(key: string, ...args: unknown[]): void;
  remove(key: string | undefined, listener?: Listener): void;
}

/** `failed` gets what a listener throws, so that one listener cannot stop another. */
export function registry(failed: (error: unknown) => void): Registry {
  // A list is replaced and never changed, so that a listener may add and remove others while it runs.
  const lists = new Map<string, Entry[]>();

  const of = (key: string) => lists.get(key) ?? [];

  return {
    lists,
    of,

    add(key, listener, options, once, run = listener as Run) {
      const signal = options?.signal;
      const remove = () => drop(key, (other) => other !== entry);
      const entry: Entry = {
        listener,
        run: once ? (...args) => (remove(), run(...args)) : run,
        // A signal may live as long as the program.
        release: () => signal?.removeEventListener("abort", remove),
      };

      if (!signal?.aborted) {
        lists.set(key, [...of(key), entry]);
        signal?.addEventListener("abort", remove);
      }
      return remove;
    },

    fire(key, ...args) {
      for (const entry of of(key)) {
        try {
          entry.run(...args);
        } catch (error) {
          failed(error);
        }
      }
    },

    remove(key, listener) {
      for (const name of key == null ? [...lists.keys()] : [key])
        drop(name, (entry) => !!listener && entry.listener !== listener);
    },
  };

  function drop(key: string, keep: (entry: Entry) => boolean) {
    const left = of(key).filter((entry) => keep(entry) || entry.release());
    if (left[0]) lists.set(key, left);
    else lists.delete(key);
  }
}

/** The methods that a client and a channel share, and the function that delivers an event to their listeners. */
export function listening<E extends object>(
  notices: Registry,
  failed: (error: unknown) => void,
): [methods: Listening<E>, deliver: (message: Message) => void] {
  const events = registry(failed);

  const add =
    (once?: boolean) =>
    (event: string, listener: Listener, options?: ListenOptions & { spread?: boolean }): (() => void) =>
      events.add(
        event,
        listener,
        options,
        once,
        options?.spread ? (data) => (listener as Run)(...[data].flat()) : undefined,
      );

  const methods = {
    on: add(),
    subscribe: add(),
    once: add(true),
    onAny: (listener: Listener, options?: ListenOptions) => notices.add("any", listener, options),
    off: events.remove,
    offAny: (listener?: Listener) => notices.remove("any", listener),

    listeners: (event?: string) =>
      (event == null ? [...events.lists.values()].flat() : events.of(event)).map((entry) => entry.listener),

    events(event?: string, { signal, buffer = 256, overflow }: StreamOptions = {}) {
      const waiting: Message[] = [];
      let error: unknown;
      let ended = signal?.aborted;
      let wake: (() => void) | undefined;

      const take = (message: Message) => {
        if (waiting.length >= buffer) {
          if (overflow === "drop-oldest") waiting.shift();
          else return end(new FanfareError("overflow", `over ${buffer} events wait`));
        }
        waiting.push(message);
        wake?.();
      };
      const end = (cause?: unknown) => {
        error = cause;
        ended = true;
        stop.abort();
        wake?.();
      };
      const stop = new AbortController();
      const until = { signal: stop.signal };

      if (event == null) notices.add("any", take, until);
      else events.add(event, take, until, false, (_, message) => take(message as Message));
      notices.add("end", end, until);
      signal?.addEventListener("abort", () => end(), until);

      // A generator would not hear of its end before it was started, and not while it waits.
      const iterator = (async function* () {
        for (;;) {
          while (waiting[0]) yield waiting.shift()!;
          if (error) throw error;
          if (ended) return;
          await new Promise<void>((resolve) => (wake = resolve));
        }
      })();
      // A generator does not hear of its end before it was started, nor while it waits.
      iterator.return = async () => (end(), { done: true, value: undefined });
      return iterator;
    },
  };

  return [
    methods as unknown as Listening<E>,
    (message) => {
      events.fire(message.event, message.data, message);
      notices.fire("any", message);
    },
  ];
}
