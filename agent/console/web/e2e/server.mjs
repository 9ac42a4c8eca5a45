// Starts and speaks to agent/console/consoletest.
import { execFileSync, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const module = fileURLToPath(new URL('../../../..', import.meta.url))

export function scratch() {
  const dir = mkdtempSync(join(tmpdir(), 'console-e2e-'))
  return { dir, remove: () => rmSync(dir, { recursive: true, force: true }) }
}

export function buildServer(dir) {
  const bin = join(dir, 'consoletest')
  execFileSync('go', ['build', '-o', bin, './agent/console/consoletest'], { cwd: module, stdio: 'inherit' })
  return bin
}

export async function startServer(bin, args) {
  const child = spawn(bin, args, { stdio: ['pipe', 'pipe', 'ignore'] })
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const next = async () => {
    const { value, done } = await lines.next()
    if (done) throw new Error('the test server ended')
    return value
  }
  const url = await next()
  return {
    url,
    async say(command) {
      child.stdin.write(command + '\n')
      await next()
    },
    async stop() {
      const gone = new Promise((resolve) => child.once('exit', resolve))
      child.stdin.end()
      await gone
    },
  }
}
