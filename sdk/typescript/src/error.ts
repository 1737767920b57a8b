/**
 * Every failure that this package reports. `code` is stable; the message is for people.
 *
 * Codes of the server are those of the client protocol, such as `forbidden`. The client adds its own:
 * `aborted`, `bad_frame`, `closed`, `connection_lost`, `invalid_data`, `overflow`, `queue_full` and `timeout`.
 * The function side adds `network`, `timeout`, `bad_url`, `bad_key` and `bad_path`, and `signToken` those that it names.
 */
export class FanfareError extends Error {
  override readonly name = "FanfareError";
  /** What happened, for programs. */
  declare readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}
