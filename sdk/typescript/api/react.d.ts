import type { Channel, ChannelState, Client, EventName, JoinOptions, Member, Message, State } from "./types.js";
/** A hook does nothing without a client, for example until somebody signed in. */
export type MaybeClient<E extends object> = Client<E> | null | undefined;
/** What `useChannel` returns. */
export interface UsedChannel<E extends object> extends ChannelState {
    /** The channel, once the component is mounted. */
    readonly channel: Channel<E> | undefined;
}
/** The state of a client. Connects it while a component with this or another hook is mounted. */
export declare function useConnection<E extends object>(client: MaybeClient<E>): State;
/** Joins a channel while the component is mounted, and returns its state. */
export declare function useChannel<E extends object>(client: MaybeClient<E>, name: string | null | undefined, options?: Pick<JoinOptions, "members">): UsedChannel<E>;
/** The members of a channel, which is joined while the component is mounted. */
export declare function useMembers<E extends object>(client: MaybeClient<E>, name: string | null | undefined): readonly Member[];
/**
 * Calls `listener` for every event of this name, or for those of one channel, which is joined. The listener may be
 * another function in each render.
 */
export declare function useEvent<E extends object, K extends EventName<E>>(client: MaybeClient<E>, event: K, listener: (data: E[K], message: Message<E[K], K>) => void, options?: {
    readonly channel?: string | undefined;
}): void;
