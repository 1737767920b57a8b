import { FanfareError } from "./error.js";

export const nothing = (): void => {};

/** A promise that nobody awaits must not end a Node process. */
export const quiet = <T>(promise: Promise<T>): Promise<T> => (promise.catch(nothing), promise);

/** Half of the time is certain, so that a wait stays a wait. */
export const jitter = (delay: number): number => delay * (0.5 + Math.random() / 2);

export const late = (limit: number): FanfareError => new FanfareError("timeout", `no answer in ${limit} ms`);

/** Whether a refusal passes: the server did not look at the message. */
export const mayPass = (error: unknown): boolean =>
  /busy|rate_limited|unavailable|internal/.test((error as FanfareError).code);
