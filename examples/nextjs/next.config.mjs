export default {
  // The folders above have lock files too.
  turbopack: { root: import.meta.dirname },
};
