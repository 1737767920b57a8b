// Made from docs/openapi.json by scripts/types.mjs. Do not change it by hand.

/** The event's name: 1 to 128 bytes. Names that start with `fanfare:` are reserved. */
export type EventName = string;

/** A channel's name: 1 to 200 letters, digits and `_.:=@,;-`. */
export type ChannelName = string;

/** Any JSON value, `null` included. It is delivered byte for byte. It may nest 128 deep. */
export type Data = unknown;

/** Bytes to deliver in a binary frame, in padded base64 (RFC 4648, section 4). Excludes `data`. */
export type DataBase64 = string;

/** A filter (docs/reference/filters.md) of at most 4,096 bytes: only connections that match are targeted. Absent: no filter. */
export type Filter = string;

/** Values for the filter, which names them `params.*`. With them the filter can be a constant text. */
export type Params = Record<string, unknown>;

/** Which connections are targeted: those of all nodes, or of the node that answers. Without Redis both are the same. */
export type Scope = "cluster" | "node";

/** Whose counts the receipt has: of all nodes, or of the node that answers. Without Redis both are the same. */
export type ReceiptScope = "cluster" | "node";

/** Whether to store the event for clients that are away. Absent: if it can be stored. `true` is refused with `cannot_store` if it cannot: the target must be a single channel with history, or a list of users whose events are stored, without a filter. */
export type Store = boolean;

/** The union of what is named. Each connection counts once. */
export interface To {
  /** All connections of these users. */
  readonly users?: readonly string[] | undefined;
  /** The members of these channels. */
  readonly channels?: readonly ChannelName[] | undefined;
  /** These connections. An id of no connection is ignored. */
  readonly connections?: readonly string[] | undefined;
}

/** Connections that do not get the event, whatever the target. */
export interface Except {
  /** All connections of these users. */
  readonly users?: readonly string[] | undefined;
  /** These connections. */
  readonly connections?: readonly string[] | undefined;
  /** All connections of these devices. */
  readonly devices?: readonly string[] | undefined;
}

/** User ids, or an object as for the other calls. */
export type DispatchExcept = readonly string[] | Except;

export interface Emit {
  /** The target connections. Absent: everyone. */
  readonly to?: To | undefined;
  readonly event: EventName;
  readonly data?: Data | undefined;
  readonly data_base64?: DataBase64 | undefined;
  readonly filter?: Filter | undefined;
  readonly params?: Params | undefined;
  readonly except?: Except | undefined;
  readonly scope?: Scope | undefined;
  readonly receipt?: ReceiptScope | undefined;
  readonly store?: Store | undefined;
}

export interface Publish {
  /** One user. This or `users` is required. */
  readonly user?: string | undefined;
  /** Several users. This or `user` is required. */
  readonly users?: readonly string[] | undefined;
  readonly event: EventName;
  readonly data?: Data | undefined;
  readonly data_base64?: DataBase64 | undefined;
  readonly filter?: Filter | undefined;
  readonly params?: Params | undefined;
  readonly except?: Except | undefined;
  readonly scope?: Scope | undefined;
  readonly receipt?: ReceiptScope | undefined;
  readonly store?: Store | undefined;
}

export interface Send {
  /** One channel. This or `channels` is required. */
  readonly channel?: ChannelName | undefined;
  /** Several channels. A name that is repeated counts once. This or `channel` is required. */
  readonly channels?: readonly ChannelName[] | undefined;
  readonly event: EventName;
  readonly data?: Data | undefined;
  readonly data_base64?: DataBase64 | undefined;
  readonly filter?: Filter | undefined;
  readonly params?: Params | undefined;
  readonly except?: Except | undefined;
  readonly scope?: Scope | undefined;
  readonly receipt?: ReceiptScope | undefined;
  readonly store?: Store | undefined;
}

export interface Broadcast {
  readonly event: EventName;
  readonly data?: Data | undefined;
  readonly data_base64?: DataBase64 | undefined;
  readonly filter?: Filter | undefined;
  readonly params?: Params | undefined;
  readonly except?: Except | undefined;
  readonly scope?: Scope | undefined;
  readonly receipt?: ReceiptScope | undefined;
  readonly store?: Store | undefined;
}

export interface Dispatch {
  /** User ids, or `["*"]` for everyone. */
  readonly recipients: readonly string[];
  readonly event: EventName;
  readonly data?: Data | undefined;
  readonly data_base64?: DataBase64 | undefined;
  readonly filter?: Filter | undefined;
  readonly params?: Params | undefined;
  readonly except?: DispatchExcept | undefined;
  readonly scope?: Scope | undefined;
  readonly receipt?: ReceiptScope | undefined;
  readonly store?: Store | undefined;
}

export interface Batch {
  /** The calls, in order. */
  readonly items: readonly BatchItem[];
}

/** The body of a publishing call, with its name in `call`. An item that is wrong fails alone. */
export type BatchItem = EmitItem | PublishItem | SendItem | BroadcastItem | DispatchItem;

export interface EmitItem {
  /** The call. */
  readonly call: "emit";
  /** The target connections. Absent: everyone. */
  readonly to?: To | undefined;
  readonly event: EventName;
  readonly data?: Data | undefined;
  readonly data_base64?: DataBase64 | undefined;
  readonly filter?: Filter | undefined;
  readonly params?: Params | undefined;
  readonly except?: Except | undefined;
  readonly scope?: Scope | undefined;
  readonly receipt?: ReceiptScope | undefined;
  readonly store?: Store | undefined;
}

export interface PublishItem {
  /** The call. */
  readonly call: "publish";
  /** One user. This or `users` is required. */
  readonly user?: string | undefined;
  /** Several users. This or `user` is required. */
  readonly users?: readonly string[] | undefined;
  readonly event: EventName;
  readonly data?: Data | undefined;
  readonly data_base64?: DataBase64 | undefined;
  readonly filter?: Filter | undefined;
  readonly params?: Params | undefined;
  readonly except?: Except | undefined;
  readonly scope?: Scope | undefined;
  readonly receipt?: ReceiptScope | undefined;
  readonly store?: Store | undefined;
}

export interface SendItem {
  /** The call. */
  readonly call: "send";
  /** One channel. This or `channels` is required. */
  readonly channel?: ChannelName | undefined;
  /** Several channels. A name that is repeated counts once. This or `channel` is required. */
  readonly channels?: readonly ChannelName[] | undefined;
  readonly event: EventName;
  readonly data?: Data | undefined;
  readonly data_base64?: DataBase64 | undefined;
  readonly filter?: Filter | undefined;
  readonly params?: Params | undefined;
  readonly except?: Except | undefined;
  readonly scope?: Scope | undefined;
  readonly receipt?: ReceiptScope | undefined;
  readonly store?: Store | undefined;
}

export interface BroadcastItem {
  /** The call. */
  readonly call: "broadcast";
  readonly event: EventName;
  readonly data?: Data | undefined;
  readonly data_base64?: DataBase64 | undefined;
  readonly filter?: Filter | undefined;
  readonly params?: Params | undefined;
  readonly except?: Except | undefined;
  readonly scope?: Scope | undefined;
  readonly receipt?: ReceiptScope | undefined;
  readonly store?: Store | undefined;
}

export interface DispatchItem {
  /** The call. */
  readonly call: "dispatch";
  /** User ids, or `["*"]` for everyone. */
  readonly recipients: readonly string[];
  readonly event: EventName;
  readonly data?: Data | undefined;
  readonly data_base64?: DataBase64 | undefined;
  readonly filter?: Filter | undefined;
  readonly params?: Params | undefined;
  readonly except?: DispatchExcept | undefined;
  readonly scope?: Scope | undefined;
  readonly receipt?: ReceiptScope | undefined;
  readonly store?: Store | undefined;
}

export interface BatchResults {
  /** One for each item, in order. */
  readonly results: readonly BatchResult[];
}

export type BatchResult = {
  /** The item succeeded. */
  readonly status: 200;
  readonly result: Receipt;
} | {
  /** The status of the problem. */
  readonly status: number;
  readonly error: Problem;
};

export interface Receipt {
  /** The id of the publication: a UUID of version 7. */
  readonly id: string;
  /** Connections that the event is for: the sum of `queued` and `dropped`. */
  readonly matched: number;
  /** Connections whose outbox has the event. */
  readonly queued: number;
  /** Connections that were too slow to get the event. */
  readonly dropped: number;
  /** The number of channels and users that the event was stored for. */
  readonly stored: number;
  /** Connections for which the filter ended in an error. They do not match. Connections that an index excluded are not counted. */
  readonly filter_errors: number;
  /** The number of nodes whose counts these are. */
  readonly nodes: number;
  readonly missing_nodes: MissingNodes;
  /** The event's place in each channel that stored it. Absent: no channel did. */
  readonly publications?: readonly Placement[] | undefined;
}

/** Nodes that did not answer in time. Their connections are not counted. */
export type MissingNodes = readonly string[];

export interface Placement {
  readonly channel: ChannelName;
  /** The id of the publication. */
  readonly id: string;
  readonly epoch: Epoch;
  /** The event's number in the channel. */
  readonly offset: number;
}

/** Offsets count within an epoch. A new epoch begins when the channel's history was lost. */
export type Epoch = string;

export interface Explain {
  readonly filter: Filter;
  readonly params?: Params | undefined;
  /** The id of a connection: also show the value of every part of the filter for it. */
  readonly connection?: string | undefined;
}

export interface Explanation {
  readonly plan: Plan;
  /** Connections that the filter was evaluated for. */
  readonly looked_at: number;
  /** Connections that match. */
  readonly matched: number;
  /** Connections for which the filter ended in an error. */
  readonly errored: number;
  /** The ids of some that match. */
  readonly sample: readonly string[];
  /** Parts of the filter that may not do what they seem to do. */
  readonly warnings: readonly ({
    /** Stable. `client_controlled`: the client chooses the value. `null_equals_null`: two absent values are equal. `wrong_type`: a part has a value for nobody. */
    readonly code: "client_controlled" | "null_equals_null" | "wrong_type";
    /** The warning, for people. */
    readonly message: string;
    /** Where the part begins, in bytes of the filter. */
    readonly offset: number;
    /** The length of the part in bytes. */
    readonly length: number;
  })[];
  /** If every connection is evaluated: the path whose index would make it a look-up, if there is one. */
  readonly suggested_index?: string | undefined;
  /** With `connection`: every part of the filter outside macros that is not a literal. */
  readonly values?: readonly ({
    /** The part. */
    readonly text: string;
    /** Where it begins, in bytes of the filter. */
    readonly offset: number;
    /** Its length in bytes. */
    readonly length: number;
    /** Its value for the connection. `[redacted]` if it would show a path in `redact`. */
    readonly value?: unknown | undefined;
    /** The error that it ends in, instead of a value. */
    readonly error?: string | undefined;
  })[] | undefined;
}

export interface Plan {
  /** `index`: connections are looked up. `scan`: every connection is evaluated. `nobody`: the filter can match nothing. */
  readonly access: "index" | "scan" | "nobody";
  /** The index that is used. */
  readonly index: string | null;
  /** The number of keys looked up in it. */
  readonly keys: number;
  /** Whether the connections found in the index are evaluated as well. */
  readonly residual: boolean;
  /** The plan in words. */
  readonly description: string;
}

/** A connection. A value at a path in `redact` is shown as the string `[redacted]`. */
export interface Connection {
  /** Unique in the cluster. */
  readonly id: string;
  /** The user, from the token. `null`: anonymous. */
  readonly user: string | null;
  /** The device that the client named. */
  readonly device: string | null;
  /** The client's address. */
  readonly ip: string;
  /** `fanfare.v1`. */
  readonly protocol: string;
  /** When it connected, in Unix seconds. */
  readonly connected_at: number;
  /** The node that has the connection. */
  readonly node: string;
  /** The claims of the token. `null`: anonymous. */
  readonly auth: Record<string, unknown> | null | string;
  /** What the client says about itself. `null`: nothing. */
  readonly profile: Record<string, unknown> | null | string;
  /** Its channels, in the order in which it joined them. */
  readonly channels: readonly ChannelName[];
}

export interface ConnectionPage {
  /** The page. */
  readonly connections: readonly Connection[];
  /** For the next page. Absent on the last page. */
  readonly cursor?: string | undefined;
  readonly missing_nodes?: MissingNodes | undefined;
}

export interface User {
  /** Whether the user has a connection. */
  readonly online: boolean;
  /** The number of the user's connections. */
  readonly connections: number;
  readonly missing_nodes?: MissingNodes | undefined;
}

export interface Channel {
  readonly channel: ChannelName;
  /** The number of members. */
  readonly connections: number;
  /** The number of different users among them. Anonymous members count for none. */
  readonly users: number;
  readonly epoch?: Epoch | undefined;
  /** The offset of the newest stored event. 0: none yet. */
  readonly offset?: number | undefined;
  readonly missing_nodes?: MissingNodes | undefined;
}

export interface ChannelPage {
  /** The page. */
  readonly channels: readonly Channel[];
  /** For the next page. Absent on the last page. */
  readonly cursor?: string | undefined;
  readonly missing_nodes?: MissingNodes | undefined;
}

export interface Member {
  /** The member's connection. */
  readonly id: string;
  /** The member's user. `null`: anonymous. */
  readonly user: string | null;
  /** The member's profile. Absent: it has none. */
  readonly data?: unknown | undefined;
}

export interface MemberPage {
  /** The page. */
  readonly members: readonly Member[];
  /** The number of members of the channel. */
  readonly count: number;
  /** The number of different users among them. Anonymous members count for none. */
  readonly users: number;
  /** For the next page. Absent on the last page. */
  readonly cursor?: string | undefined;
  readonly missing_nodes?: MissingNodes | undefined;
}

export interface HistoryPage {
  /** The epoch of the offsets. Absent: nothing was stored yet. */
  readonly epoch?: Epoch | undefined;
  /** The offset of the newest stored event. 0: none yet. */
  readonly offset: number;
  /** The page. The oldest event comes first. */
  readonly events: readonly StoredEvent[];
  /** The `after` of the next page. Absent on the last page. */
  readonly cursor?: number | undefined;
}

export type StoredEvent = {
  /** The event's number in the channel. */
  readonly offset: number;
  /** The id of the publication. */
  readonly id: string;
  /** When it was stored, in Unix milliseconds. */
  readonly at: number;
  readonly event: EventName;
  /** The data, byte for byte as they were sent. */
  readonly data?: unknown | undefined;
  /** The bytes in base64, if bytes were sent. Excludes `data`. */
  readonly data_base64?: string | undefined;
  /** The client that sent the event. Absent: an API call did. */
  readonly from?: {
    /** The sender's connection. */
    readonly connection: string;
    /** The sender's user. `null`: anonymous. */
    readonly user: string | null;
  } | undefined;
};

export interface Membership {
  readonly channel: ChannelName;
  readonly to?: To | undefined;
  readonly filter?: Filter | undefined;
  readonly params?: Params | undefined;
  readonly except?: Except | undefined;
}

export interface Joined {
  /** Connections that joined. */
  readonly joined: number;
  /** Connections that were members before. */
  readonly already: number;
  /** Connections that did not join because they are in too many channels. */
  readonly full: number;
  readonly missing_nodes?: MissingNodes | undefined;
}

export interface Left {
  /** Connections that left. */
  readonly left: number;
  readonly missing_nodes?: MissingNodes | undefined;
}

export interface Disconnect {
  readonly to?: To | undefined;
  readonly filter?: Filter | undefined;
  readonly params?: Params | undefined;
  readonly except?: Except | undefined;
  /** The close code: 1000, or 3000 to 4999. Absent: 4010. */
  readonly code?: 1000 | number | undefined;
  /** The close reason: at most 123 bytes. Absent: `disconnected`. */
  readonly reason?: string | undefined;
}

export interface Disconnected {
  /** Connections that were closed. */
  readonly disconnected: number;
  readonly missing_nodes?: MissingNodes | undefined;
}

export interface Revoke {
  /** The user. */
  readonly user?: string | undefined;
  /** The users. Send this or `user`. */
  readonly users?: readonly string[] | undefined;
  /** Tokens that were issued before this are refused: Unix seconds, or a time by RFC 3339. At most 5 s ahead of the node's clock. Absent: every token that is issued by now. */
  readonly before?: number | string | undefined;
}

export interface RevokeReceipt {
  /** Connections that were closed. */
  readonly disconnected: number;
  /** Tokens that were issued before this are refused, in Unix seconds. */
  readonly before: number;
  /** Until when they are refused, in Unix seconds. */
  readonly kept_until: number;
  /** Nodes that have applied it. */
  readonly nodes: number;
  readonly missing_nodes?: MissingNodes | undefined;
}

export interface Auth {
  /** The user. */
  readonly user: string;
  /** All claims, which filters see as `auth.*` beside `sub` and `iat`. `sub`, `exp`, `iat`, `nbf`, `iss`, `aud` and `can` are refused here. */
  readonly claims: Record<string, unknown>;
  readonly can?: Rights | undefined;
}

export interface ReplaceReceipt {
  /** Connections whose claims were replaced. */
  readonly connections: number;
  /** Nodes that have applied it. */
  readonly nodes: number;
  readonly missing_nodes?: MissingNodes | undefined;
}

export interface TokenRequest {
  /** The user, 1 to 256 bytes: the token's `sub`. */
  readonly user: string;
  /** Further claims, which filters see as `auth.*`. `sub`, `exp`, `iat`, `nbf`, `iss`, `aud` and `can` are refused here. */
  readonly claims?: Record<string, unknown> | undefined;
  readonly can?: Rights | undefined;
  /** The life of the token in seconds, as a whole number. Absent: 3600. It is shortened to `limits.token_ttl` (one day). */
  readonly ttl?: number | undefined;
}

/** What the client may do: the token's claim `can`. What is absent is not allowed. In names, `*` stands for any run of characters. */
export interface Rights {
  /** Channels that the client may join. */
  readonly join?: readonly string[] | undefined;
  /** Channels that it may send to. It need not be a member. */
  readonly send?: readonly string[] | undefined;
  /** Channels whose members it may see. */
  readonly members?: readonly string[] | undefined;
  /** Functions that it may call. */
  readonly call?: readonly string[] | undefined;
  /** Whether it may send to everyone. */
  readonly broadcast?: boolean | undefined;
  /** Whether it may send to users. */
  readonly publish?: boolean | undefined;
  /** Whether it may set its profile. */
  readonly update?: boolean | undefined;
}

export interface Token {
  /** A JSON Web Token. */
  readonly token: string;
  /** When it expires, in Unix seconds. */
  readonly expires_at: number;
  /** Its life in seconds. Less than requested if that is over `limits.token_ttl`. */
  readonly ttl: number;
}

export interface Liveness {
  /** `stuck`: the process should be restarted. */
  readonly status: "ok" | "stuck";
  /** Why it is stuck. */
  readonly reasons?: readonly string[] | undefined;
}

export interface Readiness {
  /** Whether the node is ready for traffic. */
  readonly ready: boolean;
  /** Why it is not. */
  readonly reasons?: readonly string[] | undefined;
  /** With `scope=node`: what keeps it from reaching the other nodes. */
  readonly warnings?: readonly string[] | undefined;
}

/** A problem document (RFC 9457). */
export interface Problem {
  /** `urn:fanfare:problem:` and the code. */
  readonly type: string;
  /** The status in words. */
  readonly title: string;
  /** The HTTP status. */
  readonly status: number;
  /** Stable, for programs. docs/reference/errors.md explains each code, and what to do. */
  readonly code: "bad_json" | "missing_field" | "bad_field" | "unknown_field" | "bad_base64" | "bad_params" | "bad_query" | "bad_path" | "bad_channel" | "body_incomplete" | "event_name_length" | "event_name_reserved" | "data_too_deep" | "cannot_store" | "too_many_names" | "name_too_long" | "too_many_items" | "unknown_call" | "idempotency_key_length" | "bad_token_request" | "bad_claims" | "bad_handshake" | "unknown_protocol" | "filter_syntax" | "filter_unsupported" | "unknown_function" | "wrong_arguments" | "undeclared_name" | "unbound_param" | "bad_regex" | "not_boolean" | "filter_too_long" | "filter_too_large" | "filter_too_deep" | "filter_list_too_long" | "unauthorized" | "missing_scope" | "development_only" | "origin_refused" | "unknown_path" | "unknown_app" | "unknown_connection" | "no_history" | "method_not_allowed" | "body_timeout" | "no_users" | "no_token_secret" | "body_too_large" | "too_much_to_store" | "content_type" | "idempotency_key_reused" | "upgrade_required" | "internal" | "busy" | "bus_down" | "history_unavailable" | "history_over_quota" | "idempotency_key_running" | "idempotency_store_full" | "revocations_full" | "connection_limit" | "address_limit" | "accept_rate" | "draining";
  /** What is wrong with this request, for people. */
  readonly detail: string;
  /** For an error in a filter: where the mistake begins, in bytes of the filter. */
  readonly offset?: number | undefined;
  /** For an error in a filter: the length of the mistake in bytes. */
  readonly length?: number | undefined;
  /** For an error in a filter: its line, and carets under the mistake. */
  readonly excerpt?: string | undefined;
}

/** Every call of the HTTP API by its name, with the types of what goes in and what comes out. */
export interface Operations {
  /** POST /v1/emit */
  readonly emit: {
    readonly body: Emit;
    readonly result: Receipt;
  };
  /** POST /v1/publish */
  readonly publish: {
    readonly body: Publish;
    readonly result: Receipt;
  };
  /** POST /v1/send */
  readonly send: {
    readonly body: Send;
    readonly result: Receipt;
  };
  /** POST /v1/broadcast */
  readonly broadcast: {
    readonly body: Broadcast;
    readonly result: Receipt;
  };
  /** POST /v1/dispatch */
  readonly dispatch: {
    readonly body: Dispatch;
    readonly result: Receipt;
  };
  /** POST /v1/batch */
  readonly batch: {
    readonly body: Batch;
    readonly result: BatchResults;
  };
  /** POST /v1/explain */
  readonly explain: {
    readonly body: Explain;
    readonly result: Explanation;
  };
  /** GET /v1/connections */
  readonly connections: {
    readonly query: {
      /** A filter: only connections that match are listed. */
      readonly filter?: Filter | undefined;
      /** A JSON object, bound as `params.*` in the filter. */
      readonly params?: unknown | undefined;
      /** The `cursor` of the previous page. Absent: the first page. */
      readonly cursor?: string | undefined;
      /** The largest number of entries in the page. */
      readonly limit?: number | undefined;
    };
    readonly result: ConnectionPage;
  };
  /** GET /v1/connections/{id} */
  readonly connection: {
    readonly result: Connection;
  };
  /** GET /v1/users/{user} */
  readonly user: {
    readonly result: User;
  };
  /** GET /v1/channels */
  readonly channels: {
    readonly query: {
      /** Only channels whose names begin with this. */
      readonly prefix?: string | undefined;
      /** The `cursor` of the previous page. Absent: the first page. */
      readonly cursor?: ChannelName | undefined;
      /** The largest number of entries in the page. */
      readonly limit?: number | undefined;
    };
    readonly result: ChannelPage;
  };
  /** GET /v1/channels/{channel} */
  readonly channel: {
    readonly result: Channel;
  };
  /** GET /v1/channels/{channel}/members */
  readonly members: {
    readonly query: {
      /** The `cursor` of the previous page. Absent: the first page. */
      readonly cursor?: string | undefined;
      /** The largest number of entries in the page. */
      readonly limit?: number | undefined;
    };
    readonly result: MemberPage;
  };
  /** GET /v1/channels/{channel}/history */
  readonly history: {
    readonly query: {
      /** Only events after this offset: the `cursor` of the previous page. */
      readonly after?: number | undefined;
      /** The largest number of entries in the page. */
      readonly limit?: number | undefined;
    };
    readonly result: HistoryPage;
  };
  /** POST /v1/join */
  readonly join: {
    readonly body: Membership;
    readonly result: Joined;
  };
  /** POST /v1/leave */
  readonly leave: {
    readonly body: Membership;
    readonly result: Left;
  };
  /** POST /v1/disconnect */
  readonly disconnect: {
    readonly body: Disconnect;
    readonly result: Disconnected;
  };
  /** POST /v1/revoke */
  readonly revoke: {
    readonly body: Revoke;
    readonly result: RevokeReceipt;
  };
  /** POST /v1/auth */
  readonly auth: {
    readonly body: Auth;
    readonly result: ReplaceReceipt;
  };
  /** POST /v1/tokens */
  readonly tokens: {
    readonly body: TokenRequest;
    readonly result: Token;
  };
  /** GET /v1/openapi.json */
  readonly openapi: {
    readonly result: Record<string, unknown>;
  };
  /** GET /healthz */
  readonly healthz: {
    readonly result: {
      /** Always `ok`. */
      readonly status: "ok";
    };
  };
  /** GET /livez */
  readonly livez: {
    readonly result: Liveness;
  };
  /** GET /readyz */
  readonly readyz: {
    readonly query: {
      /** `cluster`: ready only if the node also reaches the other nodes. `node`: whether this node alone is ready. What keeps it from reaching the others is then a warning. */
      readonly scope?: "cluster" | "node" | undefined;
    };
    readonly result: Readiness;
  };
}
