import { late } from "./timing.js";

type Token = string | null | undefined;

/** A function that fetches a token. Calls at the same time share one fetch, and one that hangs is given up. */
export function tokenFetcher(source: () => Token | Promise<Token>, timeout: number): () => Promise<Token> {
  let fetching: Promise<Token> | undefined;

  return () => {
    let deadline: ReturnType<typeof setTimeout>;
    fetching ??= new Promise<Token>((resolve, reject) => {
      deadline = setTimeout(() => reject(late(timeout)), timeout);
      (async () => source())().then(resolve, reject);
    }).finally(() => {
      clearTimeout(deadline);
      fetching = undefined;
    });
    return fetching;
  };
}

/** Milliseconds after which a token should be renewed. `NaN` or nothing if it does not say when it ends. */
export function renewalDelay(token: string | undefined): number | undefined {
  try {
    const { exp, iat } = JSON.parse(atob(token!.split(".")[1]!.replace(/-/g, "+").replace(/_/g, "/")));
    // Where the token seems to have ended, this clock is wrong, and only that of the signer counts.
    const left = exp - Date.now() / 1000;
    const life = left > 0 ? left : exp - iat;
    // After 80 % of it, in milliseconds.
    return Math.max(life * 800, 1000);
  } catch {
    // Another kind of token, or none. The server says when it ends.
    return;
  }
}
