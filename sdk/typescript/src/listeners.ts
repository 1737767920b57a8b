import { FanfareError } from "./error.js";
import type { ListenOptions, Listening, Message, StreamOptions } from "./types.js";

type Listener = (...args: never[]) => void;
type Run = (...args: unknown[]) => void;

interface Entry {
  readonly key: string;
  readonly listener: Listener;
  readonly run: Run;
  release(): void;
}

/** Listeners by key. */
export interface Registry {
  /** The entries of a key, or all of them. */
  of(key?: string): readonly Entry[];
  add(key: string, listener: Listener, options?: ListenOptions, once?: boolean, run?: Run): () => void;
  fire(key: string, ...args: unknown[]): void;
  /** Removes one listener of a key, all of a key, or all. */
  remove(key?: string, listener?: Listener): void;
}

/** `failed` gets what a listener throws, so that one listener cannot stop another. */
export function registry(failed: (error: unknown) => void): Registry {
  // The list is replaced and never changed, so that a listener may add and remove others while it runs.
  let entries: readonly Entry[] = [];

  const of = (key?: string) => entries.filter((entry) => key == null || entry.key === key);

  const drop = (isGone: (entry: Entry) => boolean) => {
    entries = entries.filter((entry) => !isGone(entry) || entry.release());
  };

  return {
    of,

    add(key, listener, options, once, run = listener as Run) {
      const signal = options?.signal;
      const remove = () => drop((other) => other === entry);
      const entry: Entry = {
        key,
        listener,
        run: once ? (...args) => (remove(), run(...args)) : run,
        // A signal may live as long as the program.
        release: () => signal?.removeEventListener("abort", remove),
      };

      if (!signal?.aborted) {
        entries = [...entries, entry];
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
      drop((entry) => (key == null || entry.key === key) && (!listener || entry.listener === listener));
    },
  };
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

    listeners: (event?: string) => events.of(event).map((entry) => entry.listener),

    events(event?: string, { signal, buffer = 256, overflow }: StreamOptions = {}) {
      const waiting: Message[] = [];
      let error: unknown;
      let ended = signal?.aborted;
      let wake: (() => void) | undefined;

      const take = (message: Message) => {
        if (waiting.length >= buffer) {
          if (overflow === "drop-oldest") waiting.shift();
          else return end(new FanfareError("overflow", `${buffer} events wait`));
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

      // A controller has a `signal`, as the options of a listener do.
      if (event == null) notices.add("any", take, stop);
      else events.add(event, take, stop, false, (_, message) => take(message as Message));
      notices.add("end", end, stop);
      signal?.addEventListener("abort", () => end(), stop);

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
