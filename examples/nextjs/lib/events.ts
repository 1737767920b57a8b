/** A note on the board of a team. */
export interface Note {
  id: number;
  author: string;
  text: string;
}

/** The events of this application, for the route handlers and for the page. */
export interface Events {
  note: Note;
  typing: undefined;
}

/** The channel in which the pages of a team see each other. */
export const roomOf = (team: string) => `team-${team}`;
