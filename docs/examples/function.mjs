export default {
  async fetch(request, env) {
    const body = {
      event: "invoice-paid",
      data: await request.json(),
      filter: 'auth.tenant == params.t && "admin" in auth.roles',
      params: { t: new URL(request.url).searchParams.get("tenant") ?? "" },
    };
    const headers = { "Content-Type": "application/json", Authorization: `Bearer ${env.FANFARE_API_KEY}` };
    return fetch(`${env.FANFARE_URL}/v1/emit`, { method: "POST", headers, body: JSON.stringify(body) });
  },
};
