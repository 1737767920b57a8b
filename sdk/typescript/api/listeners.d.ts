import type { ListenOptions, Listening, Message } from "./types.js";
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
    /** Removes a listener of a key. What is absent stands for all. */
    remove(key?: string, listener?: Listener): void;
}
/** `failed` gets what a listener throws, so that one listener cannot stop another. */
export declare function registry(failed: (error: unknown) => void): Registry;
/** The methods that a client and a channel share, and the function that delivers an event to their listeners. */
export declare function listening<E extends object>(notices: Registry, failed: (error: unknown) => void): [methods: Listening<E>, deliver: (message: Message) => void];
export {};
