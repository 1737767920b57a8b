/** Sends events through Redis, for Node programs beside the same Redis as the server. Needs the package `redis`. */
import { FanfareError } from "./error.js";
import { dataOf } from "./server.js";

/** The part of a client of the package `redis` that is used. */
export interface RedisPublisher {
  publish(channel: string, message: string): Promise<unknown>;
}

/** Options of a `Dispatcher`. */
export interface DispatcherOptions {
  /** The server's namespace. Default `default`. */
  readonly namespace?: string;
  /** The app. Default `default`. */
  readonly app?: string;
}

/** An event, in the form that Mesa has: a code that is ignored, the data, and the name. */
export class Message {
  /** Kept for programs that come from Mesa. */
  readonly opcode: number;
  /** What is sent. */
  readonly data: unknown;
  /** The event's name. */
  readonly type: string;

  constructor(opcode: number, data: unknown, type: string) {
    this.opcode = opcode;
    this.data = data;
    this.type = type;
  }
}

/**
 * Sends events to users through Redis, without a request to a node.
 *
 * ```ts
 * const dispatcher = new Dispatcher("redis://localhost:6379");
 * await dispatcher.dispatch(new Message(0, { status: "online" }, "STATUS_UPDATE"), ["0", "1"]);
 * ```
 */
export class Dispatcher implements AsyncDisposable {
  readonly #channel: string;
  readonly #given: string | object | RedisPublisher;
  #connection: Promise<RedisPublisher & { close?(): Promise<unknown> }> | undefined;

  /** `redis` is an address, the options of `createClient` of the package `redis`, or a client that is connected. */
  constructor(redis: string | object | RedisPublisher, options: DispatcherOptions = {}) {
    const { namespace = "default", app = "default" } = options;
    this.#given = redis;
    this.#channel = `fanfare:${namespace}:${app}:dispatch`;
  }

  /** Sends a message to these users, or to everyone by `["*"]`, less the users of `except`. */
  async dispatch(message: Message, recipients: readonly string[], except: readonly string[] = []): Promise<void> {
    await this.act({
      call: "dispatch",
      recipients,
      ...(except.length > 0 && { except }),
      event: message.type,
      ...dataOf(message.data),
    });
  }

  /** Carries out any call that the dispatch channel takes, such as `{ call: "send", channel, event, data }`. */
  async act(call: { readonly call: string } & Record<string, unknown>): Promise<void> {
    this.#connection ??= this.#connect();
    try {
      await (await this.#connection).publish(this.#channel, JSON.stringify(call));
    } catch (error) {
      throw Object.assign(new FanfareError("redis", `Redis did not take the message: ${error}`), { cause: error });
    }
  }

  /** Closes the connection, if the dispatcher made it. */
  async close(): Promise<void> {
    const connection = this.#connection;
    this.#connection = undefined;
    if (connection && !isPublisher(this.#given)) await (await connection).close?.();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #connect(): Promise<RedisPublisher> {
    if (isPublisher(this.#given)) return this.#given;
    try {
      // The type of the package is not part of this one's interface, since it is optional.
      const { createClient } = (await import("redis" as string)) as {
        createClient(
          options: object,
        ): RedisPublisher & { on(event: string, run: () => void): void; connect(): Promise<unknown> };
      };
      const client = createClient(typeof this.#given === "string" ? { url: this.#given } : this.#given);
      // Errors of the connection arrive at the calls. Without a listener they would end the process.
      client.on("error", () => {});
      await client.connect();
      return client;
    } catch (error) {
      // The next call tries again.
      this.#connection = undefined;
      throw error;
    }
  }
}

function isPublisher(value: unknown): value is RedisPublisher {
  return typeof (value as Partial<RedisPublisher> | null)?.publish === "function";
}
