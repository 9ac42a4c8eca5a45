// Setup, log-in and log-out.

export type Session = { state: 'setup' | 'login' | 'ok' | 'closed'; setup_left_ms?: number }

export type Answer = { ok: boolean; status: number; error: string; retryMS: number }

export async function session(): Promise<Session> {
  const answer = await fetch('/api/v1/session')
  return answer.json()
}

async function send(method: string, path: string, body?: object): Promise<Answer> {
  const answer = await fetch(path, {
    method,
    headers: { 'X-Porchlight': '1', ...(body && { 'Content-Type': 'application/json' }) },
    body: body && JSON.stringify(body),
  })
  const said = answer.ok ? {} : await answer.json().catch(() => ({}))
  return { ok: answer.ok, status: answer.status, error: said.error ?? '', retryMS: said.retry_ms ?? 0 }
}

// One password typed on two keyboards may differ in how accents are composed.
const same = (password: string) => password.normalize('NFC')

export const setUp = (password: string) => send('POST', '/api/v1/setup', { password: same(password) })
export const logIn = (password: string) => send('POST', '/api/v1/session', { password: same(password) })
export const logOut = () => send('DELETE', '/api/v1/session')
