// The page about people, with the made-up device of consoletest. Each test
// begins where the one before ended, on the page about people at 360 px.
import assert from 'node:assert/strict'

export function peopleTests({ page, say, check, heading, both }) {
  const row = (name) => page.locator('.people').getByRole('button', { name })
  const item = (name) => page.locator('.people > li').filter({ has: page.getByRole('button', { name }) })
  const open = async (name) => {
    if (await row(name).getAttribute('aria-expanded') !== 'true') await row(name).click()
    return item(name)
  }
  const toast = (text) => page.locator('.toast').getByText(text).waitFor()
  const gone = (locator) => locator.waitFor({ state: 'detached' })
  const bubble = (text) => page.locator('.talk > li').filter({ hasText: text })
  const box = () => page.getByRole('textbox', { name: /^Message to/ })

  return {
    async 'the page about people comes as one piece, and nothing shifts'() {
      await say('ask some')
      await page.getByText('Somebody asks to be your contact.').waitFor()
      await check('home-asked')
      for (const width of [1280, 360]) {
        await page.setViewportSize({ width, height: 900 })
        await page.goto(page.url().replace(/#.*|$/, '#people'))
        await page.reload()
        await heading('People')
        await page.getByText('Lighthouse 7').first().waitFor()
        await page.getByText('Good night from the attic.').waitFor()
        await page.getByRole('button', { name: 'Make a code' }).waitFor()
        const shift = await page.evaluate(() => new Promise((resolve) => {
          let sum = 0
          new PerformanceObserver((list) => list.getEntries().forEach((e) => { sum += e.hadRecentInput ? 0 : e.value }))
            .observe({ type: 'layout-shift', buffered: true })
          requestAnimationFrame(() => requestAnimationFrame(() => resolve(sum)))
        }))
        console.log(`  layout shift ${shift.toFixed(3)}, people, ${width} px`)
        assert.ok(shift < 0.1)
      }
      await page.setViewportSize({ width: 360, height: 740 })
      await check('people', both)
    },

    async 'a request is accepted with a name and a role'() {
      const ask = page.getByRole('region', { name: 'Somebody asks to be your contact.' })
      await ask.getByText('We met at the harvest. I have the boat.').waitFor()
      assert.equal(await ask.getByLabel('Your name for them').inputValue(), 'Lighthouse-7')
      await ask.getByLabel('Your name for them').fill('Light house')
      await ask.getByRole('button', { name: 'Accept as friend' }).click()
      await ask.getByRole('alert').getByText('Unusable name "Light house"').waitFor()
      await check('people-refused')
      await ask.getByLabel('Your name for them').fill('Lighthouse')
      await ask.getByLabel('They are').selectOption('Can see public things only')
      await ask.getByRole('button', { name: 'Accept', exact: true }).click()
      await gone(ask)
      await toast('Lighthouse is your contact now.')
      await row(/Lighthouse/).waitFor()
      await row(/Lighthouse/).getByText('can see public things only · on-line').waitFor()
    },

    async 'a request is refused, and that can be taken back'() {
      await say('ask some')
      const ask = page.getByRole('region', { name: 'Somebody asks to be your contact.' })
      await ask.getByRole('button', { name: 'Refuse' }).click()
      await gone(ask)
      await toast('Lighthouse 7 is refused.')
      await page.getByRole('button', { name: 'Undo' }).click()
      await ask.waitFor()
      await ask.getByRole('button', { name: 'Refuse' }).click()
      await page.getByRole('link', { name: 'Home' }).click()
      await page.reload() // leaving the page does what was begun
      await heading('Your light is on.')
      await page.getByRole('link', { name: 'People', exact: true }).click()
      await heading('People')
      assert.equal(await ask.count(), 0)
    },

    async 'words of strangers are text and nothing else'() {
      await say('ask hostile')
      const ask = page.getByRole('region', { name: 'Somebody asks to be your contact.' })
      await ask.waitFor()
      assert.equal([...await ask.locator('p bdi').first().textContent()].length, 40)
      assert.ok([...await ask.locator('blockquote bdi').textContent()].length <= 280)
      assert.equal(await page.locator('main script, .note b b').count(), 0)
      assert.ok(!/[\u202e<>\s]*[\u202e]/.test(await ask.getByLabel('Your name for them').inputValue()))
      await check('people-hostile')
      await ask.getByRole('button', { name: 'Block' }).click()
      await gone(ask)
      await page.getByText('blocked-e4tz7qa').waitFor()
    },

    async 'a contact opens in place and says what they may do'() {
      const li = await open(/^Alice/)
      await li.getByText('See and fetch Films').waitFor()
      await li.getByText('Put files into In-tray').waitFor()
      await li.getByText('Open camera (TCP)').waitFor()
      await li.getByText('Alice’s phone').waitFor()
      await li.getByText(/last seen 2\d.min ago/).waitFor()
      await row(/^Alice/).getByText('friend · 2 devices · on-line at Attic PC').waitFor()
      await check('people-open', both)
    },

    async 'they need not see when I am here'() {
      const box = page.getByRole('switch', { name: /They see when I am here/ })
      assert.equal(await box.isChecked(), true)
      const put = page.waitForRequest((r) => r.method() === 'PUT' && r.url().endsWith('/hidden'))
      await box.click()
      assert.equal((await put).postData(), 'true')
      assert.equal(await box.isChecked(), false)
      await page.reload()
      await open(/^Alice/)
      assert.equal(await box.isChecked(), false)
      await box.focus()
      await page.keyboard.press('Space')
      assert.equal(await box.isChecked(), true)
    },

    async 'role and name are changed in place'() {
      const li = await open(/^Ida/)
      await li.getByLabel('Role').selectOption('Can see public things only')
      await toast('Ida: Can see public things only')
      await li.getByText('can see public things only · on-line').waitFor()
      await page.getByRole('button', { name: 'Undo' }).click()
      await li.getByText('friend · on-line').waitFor()
      await li.getByRole('button', { name: 'Rename' }).click()
      await li.getByLabel('New name').fill('Idun')
      await page.keyboard.press('Enter')
      await row(/^Idun/).waitFor()
      await (await open(/^Idun/)).getByText('Looking for a direct way.').waitFor()
      await row(/^Idun/).click()
    },

    async 'a message is sent and tells where it is'() {
      await (await open(/^Alice/)).getByRole('button', { name: 'Write' }).click()
      await box().waitFor()
      await page.waitForFunction(() => document.activeElement?.id === 'message')
      await page.keyboard.type('The second part is there.')
      await page.keyboard.press('Enter')
      const sent = bubble('The second part is there.')
      await sent.getByText('waiting here until Alice can be reached').waitFor()
      assert.equal(await box().inputValue(), '')
      await check('people-sent')
      await say('state Alice stored')
      await sent.getByText('waiting with a helper until Alice is on-line').waitFor()
      await say('state Alice delivered')
      await sent.getByText('arrived').waitFor()
    },

    async 'what did not arrive can be written again'() {
      await box().fill('Are you there?')
      await page.getByRole('button', { name: 'Send' }).click()
      await bubble('Are you there?').waitFor()
      await say('state Alice expired')
      await bubble('Are you there?').getByText('did not arrive within 7 days').waitFor()
      await bubble('Are you there?').getByRole('button', { name: 'Write again' }).click()
      assert.equal(await box().inputValue(), 'Are you there?')
    },

    async 'the length of a message is counted in bytes'() {
      await box().fill('é'.repeat(399))
      await page.getByText('2 bytes left').waitFor()
      await box().fill('é'.repeat(401))
      await page.getByText('2 bytes too long').waitFor()
      await check('people-long')
      await page.keyboard.press('Enter')
      assert.equal(await page.getByRole('button', { name: 'Send' }).getAttribute('aria-disabled'), 'true')
      assert.equal(await bubble('éééé').count(), 0)
      await box().fill('')
    },

    async 'what comes is marked until it is seen'() {
      await page.evaluate(() => scrollTo(0, 0))
      await say('write Alice Good morning from the valley.')
      await row(/^Alice.*1 new message/).waitFor()
      await page.getByRole('link', { name: /People.*1 thing new/ }).waitFor()
      await check('people-unread', [['light', 360], ['dark', 360]]) // at 1280 they are seen at once
      const read = page.waitForRequest('**/messages/read')
      await page.evaluate(() => document.querySelector('#talk .talk > li:last-child').scrollIntoView())
      await read
      await bubble('Good morning from the valley.').locator('.fresh').getByText('New').waitFor()
      await gone(row(/^Alice.*1 new message/))
    },

    async 'presence changes while somebody types, and the focus stays'() {
      await box().focus()
      await page.keyboard.type('half a sen')
      await say('presence Idun off')
      await row(/^Idun.*last seen just now/).waitFor()
      await say('arrive Aaron')
      await row(/^Aaron/).waitFor()
      await page.keyboard.type('tence')
      assert.equal(await box().inputValue(), 'half a sentence')
      await row(/^Idun/).focus()
      await say('presence Idun on')
      await row(/^Idun.*on-line.*direct · 22/).waitFor()
      await say('arrive Abel')
      await row(/^Abel/).waitFor()
      assert.match(await page.evaluate(() => document.activeElement.textContent), /Idun/)
      await box().fill('')
    },

    async 'somebody is added by a link and waits for an answer'() {
      await page.getByLabel('Link or address').fill('porchlight:short')
      await page.getByLabel('Your name for them').fill('Mill')
      await page.getByRole('button', { name: 'Add', exact: true }).click()
      await page.getByRole('alert').getByText('Not a link').waitFor()
      await check('people-add')
      await page.getByLabel('Link or address').fill('porchlight:' + 'mill4tz'.repeat(8) + '?at=44.128.0.9:1')
      await page.getByLabel('A line for them').fill('It is me, from the attic.')
      await page.getByRole('button', { name: 'Add', exact: true }).click()
      await row(/^Mill.*asked, waiting for an answer/).waitFor()
      assert.equal(await page.getByLabel('Link or address').inputValue(), '')
    },

    async 'a block can be taken back, at once and later'() {
      await (await open(/^Bob/)).getByRole('button', { name: 'Block', exact: true }).click()
      await toast('Bob’s Pi is blocked.')
      await gone(row(/^Bob/))
      await page.getByRole('button', { name: 'Undo' }).click()
      await row(/^Bob/).waitFor()
      await (await open(/^Bob/)).getByRole('button', { name: 'Block', exact: true }).click()
      const li = page.locator('section').filter({ has: page.getByRole('heading', { name: 'Blocked' }) }).locator('li', { hasText: 'Bob’s Pi' })
      await check('people-blocked')
      await li.getByRole('button', { name: 'Let in again' }).click()
      await row(/^Bob/).waitFor()
    },

    async 'a removal waits for Undo'() {
      const calls = []
      const watch = (r) => { if (r.method() === 'DELETE') calls.push(r.url()) }
      page.on('request', watch)
      await (await open(/^Mill/)).getByRole('button', { name: 'Remove' }).click()
      await toast('Mill is removed.')
      await gone(row(/^Mill/))
      await page.waitForFunction(() => document.activeElement?.textContent === 'Undo')
      await page.keyboard.press('Enter')
      await row(/^Mill/).waitFor()
      assert.deepEqual(calls, [])
      await page.clock.install()
      await (await open(/^Mill/)).getByRole('button', { name: 'Remove' }).click()
      await toast('Mill is removed.')
      const sent = page.waitForRequest((r) => r.method() === 'DELETE')
      await page.clock.runFor(10_100)
      await sent
      await page.clock.resume()
      await gone(page.locator('.toast'))
      assert.equal(await row(/^Mill/).count(), 0)
      page.off('request', watch)
    },

    async 'a device is invited by a code, and appears'() {
      await page.getByRole('button', { name: 'Make a code' }).click()
      await page.getByText('maple-7-ferry').waitFor()
      await page.getByRole('img', { name: 'QR code of the invitation' }).waitFor()
      await page.getByText(/9.min \d+.s left/).waitFor()
      await check('people-invited', both)
      await page.getByRole('link', { name: 'Home' }).click()
      await heading('Your light is on.')
      await page.getByRole('link', { name: /People/ }).first().click()
      await page.getByText('maple-7-ferry').waitFor()
      await say('join')
      await toast('Kitchen tablet is yours now.')
      await row(/Kitchen tablet/).waitFor()
      assert.equal(await page.getByText('maple-7-ferry').count(), 0)
    },

    async 'a device is revoked behind a dialog that says it is for good'() {
      await (await open(/Cabin box/)).getByRole('button', { name: 'Revoke' }).click()
      const dialog = page.getByRole('dialog', { name: 'Revoke Cabin box?' })
      await dialog.getByText('This cannot be undone.').waitFor()
      assert.equal(await page.evaluate(() => document.activeElement.textContent), 'Keep it')
      await check('people-revoke', both)
      await page.keyboard.press('Escape')
      await gone(dialog)
      await row(/Cabin box/).waitFor()
      await item(/Cabin box/).getByRole('button', { name: 'Revoke' }).click()
      await dialog.getByRole('button', { name: 'Revoke Cabin box' }).click()
      await toast('Cabin box is revoked.')
      await gone(row(/Cabin box/))
      const here = await open(/^Attic Pi/)
      assert.equal(await here.getByRole('button', { name: 'Revoke' }).count(), 0)
    },

    async 'a device of nobody joins by a code'() {
      await say('owner none')
      await page.getByText('This device belongs to nobody yet.').waitFor()
      await check('people-nobodys')
      await page.getByText('Join with a code instead').click()
      await page.getByLabel('Code of the other device').fill('wrong-1-code')
      await page.getByRole('button', { name: 'Join', exact: true }).click()
      await page.getByRole('alert').getByText('Nobody waits with that code').waitFor()
      await page.getByLabel('Code of the other device').fill('maple-7-ferry')
      await page.getByRole('button', { name: 'Join', exact: true }).click()
      await toast('This device is one of yours now.')
      await page.getByText('Your key lies on another device.').waitFor()
      assert.equal(await page.getByRole('button', { name: 'Make a code' }).count(), 0)
      await say('owner here')
    },

    async 'a page that cannot fetch says so and tries again'() {
      await page.route('**/api/v1/messages?*', (r) => r.fulfill({ status: 500, body: '{"error":"the disk is full","code":"failed"}' }))
      await page.route('**/api/v1/devices', (r) => r.abort())
      await page.reload()
      await page.locator('#talk').getByText('The disk is full.').waitFor()
      await page.getByText('This could not be loaded.').waitFor()
      await check('people-trouble')
      await page.unroute('**/api/v1/messages?*')
      await page.unroute('**/api/v1/devices')
      // Either comes back by itself, too: maybe before it is pressed.
      const again = () => page.getByRole('button', { name: 'Try again' }).first().click({ timeout: 2000 }).catch(() => {})
      await again()
      await again()
      await page.locator('#talk').getByText('No messages yet.').waitFor()
      await row(/Workshop Pi/).waitFor()
    },

    async 'with nobody here the page says how to begin'() {
      await say('people none')
      await page.getByText('Nobody here yet').waitFor()
      await check('people-nobody')
      await page.getByRole('button', { name: 'Share my address' }).first().click()
      await page.getByRole('heading', { name: 'Let somebody scan this' }).waitFor()
      await page.keyboard.press('Escape')
      await say('people some')
      await page.locator('.skip').focus()
      await page.keyboard.press('Enter')
      await heading('People') // the way to the content is no way to another page
      await page.getByRole('link', { name: 'Home' }).click()
      await heading('Your light is on.')
    },
  }
}
