// Turns .build into ../dist: every file compressed, the classic script and the
// icons named by their content, and the digest of the sources beside them.
// With --check it only says whether ../dist belongs to the sources.
import { createHash } from 'node:crypto'
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'
import { sourcesDigest } from './sources.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const from = join(root, '.build')
const dist = join(root, '..', 'dist')
const mark = join(dist, 'sources.sha256')

if (process.argv.includes('--check')) {
  const ok = readFileSync(mark, 'utf8').trim() === sourcesDigest(root)
  console.log(ok ? 'dist belongs to the sources' : 'dist is older than the sources: run npm run build and commit agent/console/dist')
  process.exit(ok ? 0 : 1)
}

const pack = (name, data) => writeFileSync(join(dist, name + '.gz'), gzipSync(data, { level: 9 }))

rmSync(dist, { recursive: true, force: true })
mkdirSync(join(dist, 'assets'), { recursive: true })
for (const name of readdirSync(join(from, 'assets'))) pack('assets/' + name, readFileSync(join(from, 'assets', name)))

const theme = readFileSync(join(root, 'src/theme.js'), 'utf8').replace(/^\s*\/\/.*\n/gm, '')
const themeName = `theme-${createHash('sha256').update(theme).digest('hex').slice(0, 8)}.js`
pack('assets/' + themeName, theme)

const html = readFileSync(join(from, 'index.html'), 'utf8')
  .replace('/theme.js', '/assets/' + basename(themeName))
  .replaceAll(' crossorigin', '')
pack('index.html', html)
writeFileSync(mark, sourcesDigest(root) + '\n')
