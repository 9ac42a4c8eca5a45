// The console in a real browser: first start, live page, every verdict, both
// looks, both widths, log-in, and a device that goes away and comes back.
// Pictures go to the folder named by SHOTS, if set.
import assert from 'node:assert/strict'
import { mkdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { launch } from './browser.mjs'
import { peopleTests } from './people.mjs'
import { buildServer, scratch, startServer } from './server.mjs'

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
const shots = process.env.SHOTS
if (shots) mkdirSync(shots, { recursive: true })

const password = 'lantern over the door'
const limit = 10_000
const tmp = scratch()
const store = join(tmp.dir, 'password')
const bin = buildServer(tmp.dir)
let server = await startServer(bin, ['-store', store])
const context = await launch(join(tmp.dir, 'profile'))
const page = context.pages()[0] ?? await context.newPage()
page.setDefaultTimeout(limit)

const foreign = []
const complaints = []
page.on('request', (r) => { if (!r.url().startsWith(server.url)) foreign.push(r.url()) })
page.on('pageerror', (e) => complaints.push(String(e)))
page.on('console', (m) => { if (m.type() === 'error' && !/401|429|ERR_|Failed to load/.test(m.text())) complaints.push(m.text()) })

const heading = (text) => page.getByRole('heading', { level: 1, name: text }).waitFor()

const help = 'Your light is on, with a little help.'

const titled = (text) => page.waitForFunction((t) => document.title === t, text)

const both = [['light', 360], ['light', 1280], ['dark', 360], ['dark', 1280]]
const crossed = [['light', 360], ['dark', 1280]]

// check looks at the page as it is: pages in both looks and both widths,
// states of a page crosswise.
async function check(name, views = shots ? both : crossed) {
  for (const [colorScheme, width] of views) {
    await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' })
    await page.setViewportSize({ width, height: width === 360 ? 740 : 900 })
    await page.evaluate(axe)
    const found = await page.evaluate(() => axe.run())
    const bad = found.violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.target).join(' ')}`)
    assert.deepEqual(bad, [], `axe, ${name}, ${width} px, ${colorScheme}`)
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)
    assert.ok(wide <= 0, `${name}, ${width} px: ${wide} px too wide`)
    await page.evaluate(() => scrollTo(0, 0))
    if (shots) await page.screenshot({ path: join(shots, `${name}-${width}-${colorScheme}.png`), fullPage: true })
  }
  await page.emulateMedia({ colorScheme: 'light', reducedMotion: 'no-preference' })
  await page.setViewportSize({ width: 360, height: 740 })
}

const tests = {
  async 'first start asks for a password and then shows the light'() {
    await page.goto(server.url)
    await heading('Hello. Let’s leave a light on.')
    await check('first-run', both)
    await page.getByLabel('Choose a password').fill('short')
    await page.getByText('5 more.').waitFor()
    await page.getByLabel('Choose a password').fill(password)
    await page.getByText('Long enough.').waitFor()
    await page.getByRole('button', { name: 'Go on' }).click()
    await heading('Trying the doors…')
    await server.say('verdict nat_easy')
    await heading('Your light is on, with a little help.')
    await check('light-on')
    await page.getByRole('button', { name: 'To Home' }).click()
    await page.getByRole('button', { name: /Alice/ }).waitFor()
  },

  async 'the page says who, why and how, in both looks and widths'() {
    await server.say('verdict public')
    await heading('Your light is on.')
    await titled('Light on: Attic Pi')
    assert.match(await page.locator('link[rel=icon]').getAttribute('href'), /lamp-on/)
    await page.getByText('direct · 18 ms').waitFor()
    await page.getByText('The network around Bob’s Pi blocks UDP').waitFor()
    await page.getByText('same home · 1 ms').waitFor()
    await check('home', both)
  },

  async 'a change arrives without loading the page again'() {
    const loads = await page.evaluate(() => performance.getEntriesByType('navigation').length)
    await server.say('rtt 35')
    await page.getByText('direct · 35 ms').waitFor()
    await server.say('verdict nat_hard')
    await heading('Your light is on, with a little help.')
    await titled('Light on, with help: Attic Pi')
    await server.say('idle')
    await page.getByText('Nothing moves at the moment.').waitFor()
    await server.say('busy')
    await server.say('step')
    await page.getByRole('progressbar', { name: 'harvest-day.mp4' }).waitFor()
    assert.equal(await page.evaluate(() => performance.getEntriesByType('navigation').length), loads)
  },

  async 'depth opens in place'() {
    await page.getByText('In technical terms').click()
    await page.getByText('address- and port-dependent, +1 each').waitFor()
    await page.getByText('UPnP (IGD 2): no answer').waitFor()
    await page.getByText('UDP, IPv4: not open').waitFor()
    const row = page.getByRole('button', { name: /Alice/ })
    await row.click()
    assert.equal(await row.getAttribute('aria-expanded'), 'true')
    await page.getByText('from srflx 44.128.0.7:41641').waitFor()
    await check('home-open', both)
    await row.click()
    await page.getByText('In technical terms').click()
  },

  async 'the address is shared by code and by link'() {
    await page.getByRole('button', { name: 'Share my address' }).first().click()
    await page.getByRole('heading', { name: 'Let somebody scan this' }).waitFor()
    await check('share', both)
    await page.getByRole('dialog').getByRole('button', { name: 'Copy link' }).click()
    await page.getByText('Link copied.').waitFor()
    await page.keyboard.press('Escape')
    await page.getByRole('dialog').waitFor({ state: 'detached' })
  },

  async 'every verdict has its words'() {
    const heads = JSON.parse(readFileSync(new URL('./heads.json', import.meta.url), 'utf8'))
    for (const [code, { head, todo }] of Object.entries(heads)) {
      await server.say('verdict ' + code)
      await heading(head)
      if (todo) await page.locator('.verdict .more').getByText(todo).waitFor()
      if (shots || ['private', 'no_helper', 'checking', 'double_nat'].includes(code)) await check('verdict-' + code)
    }
    await server.say('verdict public')
    await heading('Your light is on.')
  },

  async 'while a verdict is in doubt it stays, and the page says so'() {
    await server.say('doubt on')
    await server.say('verdict mapped')
    await page.getByText('Your router opened a door for it').waitFor()
    await page.getByText('It did not answer from outside a minute ago.').waitFor()
    await heading('Your light is on.')
    await check('doubt')
    await server.say('doubt off')
    await server.say('verdict nat_easy')
    await page.getByText('Checked').waitFor()
  },

  async 'the sheet shows the way to the router, and the lamp lights up in it'() {
    await server.say('router 192.168.1.1 FRITZ!Box 7590')
    await server.say('verdict nat_hard')
    await page.getByText('switch on UPnP at 192.168.1.1 (FRITZ!Box 7590)').waitFor()
    await page.clock.install()
    await page.getByRole('button', { name: 'Show me how' }).click()
    const sheet = page.getByRole('dialog', { name: 'Switch on UPnP' })
    const link = sheet.getByRole('link', { name: '192.168.1.1' })
    assert.equal(await link.getAttribute('href'), 'http://192.168.1.1/')
    assert.equal(await link.getAttribute('target'), '_blank')
    await sheet.getByText('Find UPnP of your FRITZ!Box 7590').waitFor()
    await check('how', both)
    const asked = page.waitForRequest('**/netcheck')
    await page.clock.runFor(10_000)
    await asked
    await page.clock.resume()
    await server.say('verdict mapped')
    await sheet.getByText('Done. Your light is on.').waitFor()
    await sheet.locator('.lamp.on').waitFor()
    await check('how-done')
    await page.keyboard.press('Escape')
    await sheet.waitFor({ state: 'detached' })
    assert.equal(await page.getByRole('button', { name: 'Show me how' }).count(), 0)
  },

  async 'a router that is not of this home, or names itself oddly, is only text'() {
    await server.say('router 203.0.113.9 <img/src=x>')
    await server.say('verdict nat_easy')
    await page.getByText('switch on UPnP at 203.0.113.9 (<img/src=x>)').waitFor()
    assert.equal(await page.locator('.verdict a, .verdict img').count(), 0)
    assert.equal(await page.getByRole('button', { name: 'Show me how' }).count(), 0)
    await server.say('router')
    await server.say('verdict refused')
    await page.getByText('allow UPnP for 192.168.1.23 at your router, or forward UDP port 41641 to it.').waitFor()
    await server.say('router 192.168.1.1')
    await server.say('verdict public')
    await heading('Your light is on.')
  },

  async 'names of others are text and nothing else'() {
    await server.say('people hostile')
    await page.getByText('There is no direct way at the moment.').waitFor()
    const shown = await page.locator('.people bdi').first().textContent()
    assert.equal([...shown].length, 40)
    assert.ok(shown.includes('<img'))
    assert.equal(await page.locator('.people img').count(), 0)
    await check('hostile')
    await server.say('people none')
    await page.getByText('Nobody here yet').waitFor()
    await check('nobody')
    await server.say('people some')
    await page.getByRole('button', { name: /Alice/ }).waitFor()
  },

  ...peopleTests({ page, say: (command) => server.say(command), check, heading, both }),

  async 'the look is kept'() {
    const dark = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor)
    assert.equal(await dark(), 'rgb(245, 245, 242)')
    await page.locator('main').getByLabel('Look').selectOption('dark')
    assert.equal(await dark(), 'rgb(17, 20, 27)')
    await page.reload()
    await heading('Your light is on.')
    assert.equal(await dark(), 'rgb(17, 20, 27)')
    await page.locator('main').getByLabel('Look').selectOption('auto')
  },

  async 'nothing shifts while the page comes up'() {
    for (const [width, code, head] of [[1280, 'public', 'Your light is on.'], [1280, 'refused', help], [360, 'refused', help], [360, 'public', 'Your light is on.']]) {
      await page.setViewportSize({ width, height: 900 })
      await server.say('verdict ' + code)
      await page.reload()
      await heading(head)
      const shift = await page.evaluate(() => new Promise((resolve) => {
        let sum = 0
        new PerformanceObserver((list) => list.getEntries().forEach((e) => { sum += e.hadRecentInput ? 0 : e.value }))
          .observe({ type: 'layout-shift', buffered: true })
        requestAnimationFrame(() => requestAnimationFrame(() => resolve(sum)))
      }))
      console.log(`  layout shift ${shift.toFixed(3)}, ${code}, ${width} px`)
      assert.ok(shift < 0.1)
    }
    await page.setViewportSize({ width: 360, height: 740 })
  },

  async 'a device that goes away is waited for, and the password is asked again'() {
    const at = new URL(server.url).host
    await server.stop()
    await page.getByText('Waiting for Attic Pi.').waitFor()
    await titled('Waiting for Attic Pi')
    await page.getByRole('button', { name: /Alice/ }).waitFor() // what was known stays readable
    await check('away')
    server = await startServer(bin, ['-store', store, '-listen', at])
    await heading('Who is there?')
    await titled('Porchlight')
    await check('log-in', both)
  },

  async 'log-in tells a wrong password and slows guesses down'() {
    const field = page.getByLabel('Password')
    await field.fill('not the password')
    await page.getByRole('button', { name: 'Go on' }).click()
    await page.getByText('That is not the password.').waitFor()
    for (let i = 0; i < 5; i++) {
      const answer = page.waitForResponse('**/api/v1/session')
      await page.getByRole('button', { name: 'Go on' }).click()
      await answer
      await page.locator('[aria-disabled=false]').or(page.getByText('Too many')).first().waitFor()
    }
    await page.getByText(/Too many tries from this place. Next try in \d+.s./).waitFor()
    await check('too-many')
    await page.getByText('You can try again now.').waitFor()
    await field.fill(password)
    await page.getByRole('button', { name: 'Go on' }).click()
    await heading('Trying the doors…')
  },

  async 'log out ends the session'() {
    await page.locator('main').getByRole('button', { name: 'Log out' }).click()
    await heading('Who is there?')
    assert.equal(await page.evaluate(() => fetch('/api/v1/status').then((r) => r.status)), 401)
  },

  async 'a foreign page can neither frame the console nor read it'() {
    const { other, close } = await elsewhere()
    const stranger = await context.newPage()
    await stranger.goto(other)
    const answers = await stranger.evaluate(async (target) => {
      const tried = []
      for (const init of [{}, { method: 'POST', body: '{}' }, { method: 'DELETE' }, { mode: 'no-cors', credentials: 'include' }]) {
        tried.push(await fetch(target + 'api/v1/session', init).then((r) => r.type + r.status, () => 'refused'))
      }
      const frame = document.createElement('iframe')
      frame.src = target
      const loaded = new Promise((resolve) => { frame.onload = resolve })
      document.body.append(frame)
      await loaded
      let seen = 'hidden'
      try { if (frame.contentDocument?.querySelector('#app')) seen = 'seen' } catch { /* another origin */ }
      return [...tried, seen]
    }, server.url)
    assert.deepEqual(answers, ['refused', 'refused', 'refused', 'refused', 'hidden'])
    await stranger.close()
    close()
  },

  async 'set-up that has closed says so'() {
    await server.stop()
    server = await startServer(bin, ['-window', '1ms'])
    await page.goto(server.url)
    await heading('Set-up has closed.')
    await check('closed')
  },
}

// elsewhere is another site on this machine.
async function elsewhere() {
  const { createServer } = await import('node:http')
  const site = createServer((_, answer) => answer.setHeader('Content-Type', 'text/html').end('<!doctype html><title>x</title><body>'))
  await new Promise((resolve) => site.listen(0, '127.0.0.1', resolve))
  return { other: `http://127.0.0.1:${site.address().port}/`, close: () => { site.closeAllConnections(); site.close() } }
}

let failed = 0
let passed = 0
try {
  for (const [name, run] of Object.entries(tests)) {
    const began = performance.now()
    try {
      await run()
      passed++
      console.log(`ok   ${name} (${((performance.now() - began) / 1000).toFixed(1)} s)`)
    } catch (e) {
      failed++
      console.log('FAIL ' + name + '\n' + (e.stack ?? e))
      if (shots) await page.screenshot({ path: join(shots, 'failed.png'), fullPage: true })
      break // each test begins where the one before ended
    }
  }
  if (!failed) {
    assert.deepEqual(foreign, [], 'requests that left the console')
    assert.deepEqual(complaints, [], 'complaints of the browser')
  }
} catch (e) {
  failed++
  console.log(e.stack ?? e)
} finally {
  await context.close()
  await server.stop().catch(() => {})
  tmp.remove()
}
console.log(`console e2e: ${passed} passed, ${failed} failed`)
process.exit(failed ? 1 : 0)
