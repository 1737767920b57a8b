/** Calls `wake` from now on, or no longer, when a page learns that the network or its user came back. */
export function watchPage(wake: () => void, begin: boolean): void {
  const change = begin ? "addEventListener" : "removeEventListener";
  const { document } = globalThis;
  document?.[change]?.("visibilitychange", wake);
  // Only in a page: other runtimes have a global addEventListener for other things.
  if (document) globalThis[change]?.("online", wake);
}
