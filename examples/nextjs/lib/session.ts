import { cookies } from "next/headers";

export interface Person {
  user: string;
  team: string;
}

// A real application has accounts.
const teams: Record<string, string> = { ann: "red", bob: "red", cat: "blue" };
export const people = Object.keys(teams);

/** Who is signed in. */
export async function signedIn(): Promise<Person | null> {
  const user = (await cookies()).get("user")?.value;
  const team = user && Object.hasOwn(teams, user) ? teams[user] : undefined;
  return user && team ? { user, team } : null;
}
