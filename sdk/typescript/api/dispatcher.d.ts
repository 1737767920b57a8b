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
export declare class Message {
    /** Kept for programs that come from Mesa. */
    readonly opcode: number;
    /** What is sent. */
    readonly data: unknown;
    /** The event's name. */
    readonly type: string;
    constructor(opcode: number, data: unknown, type: string);
}
/**
 * Sends events to users through Redis, without a request to a node.
 *
 * ```ts
 * const dispatcher = new Dispatcher("redis://localhost:6379");
 * await dispatcher.dispatch(new Message(0, { status: "online" }, "STATUS_UPDATE"), ["0", "1"]);
 * ```
 */
export declare class Dispatcher implements AsyncDisposable {
    #private;
    /** `redis` is an address, the options of `createClient` of the package `redis`, or a client that is connected. */
    constructor(redis: string | object | RedisPublisher, options?: DispatcherOptions);
    /** Sends a message to these users, or to everyone by `["*"]`, less the users of `except`. */
    dispatch(message: Message, recipients: readonly string[], except?: readonly string[]): Promise<void>;
    /** Carries out any call that the dispatch channel takes, such as `{ call: "send", channel, event, data }`. */
    act(call: {
        readonly call: string;
    } & Record<string, unknown>): Promise<void>;
    /** Closes the connection, if the dispatcher made it. */
    close(): Promise<void>;
    [Symbol.asyncDispose](): Promise<void>;
}
