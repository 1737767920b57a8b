import { cookies } from "next/headers";

/** Signs in, or out without a user. A real application asks for a password. */
export async function POST(request: Request) {
  const user = (await request.formData()).get("user");
  const jar = await cookies();
  if (user) jar.set("user", `${user}`, { httpOnly: true, sameSite: "strict" });
  else jar.delete("user");
  return new Response(null, { status: 303, headers: { Location: "/" } });
}
