// Every word the page shows, in English. The interface sends codes (see
// agent/api); {braces} are filled in by the page.

const relayHead = 'Your light is on, by relay.'
const directly = 'People you trust can reach {device} directly, from anywhere.'
const openUPnP = 'switch on UPnP at {router}'

export const en = {
  product: 'Porchlight',
  skip: 'To the content',
  pages: 'Pages',
  tabs: { home: 'Home', people: 'People', address: 'Address' },

  lamp: {
    on: { title: 'Light on', bar: 'light on' },
    help: { title: 'Light on, with help', bar: 'on, with help' },
    check: { title: 'Checking', bar: 'checking' },
    off: { title: 'Light off', bar: 'light off' },
  },

  verdicts: {
    mapped: { head: 'Your light is on.', say: directly + ' Your router opened a door for it and keeps it open.', todo: '' },
    forwarded: { head: 'Your light is on.', say: directly + ' The port you opened at {router} leads to it.', todo: '' },
    public: { head: 'Your light is on.', say: directly + ' It has its own public address.', todo: '' },
    ipv6_only: {
      head: 'Your light is on.',
      say: 'People with IPv6 can reach {device} directly. Everybody else is introduced by a helper first.',
      todo: '*To open IPv4 too:* ' + openUPnP + '.',
    },
    nat_easy: {
      head: 'Your light is on, with a little help.',
      say: 'Your router lets nobody in first. A helper introduces callers; after that they talk to {device} directly.',
      todo: '*To need no help:* ' + openUPnP + '.',
    },
    nat_hard: {
      head: 'Your light is on, with a little help.',
      say: 'Your router uses a new port for every connection. Helpers introduce callers; most then find a direct way, some go by relay.',
      todo: '*To need no help:* ' + openUPnP + ', or its setting “open NAT” or “full cone”.',
    },
    double_nat: {
      head: 'Your light is on, with a little help.',
      say: 'There are two routers between {device} and the internet: {router} and, beyond it, {outer}. Helpers introduce callers; most then get in directly.',
      todo: '*To need no help:* set the outer one to “bridge”, or switch on UPnP there too.',
    },
    cgnat: {
      head: 'Your light is on, with a little help.',
      say: 'Your provider shares one address among many homes, so no door can be opened from here. Helpers introduce callers; most then get in directly.',
      todo: 'Nothing at home changes this. Your provider can: ask for IPv6 or a public IPv4 address.',
    },
    map_lies: {
      head: 'Your light is on, with a little help.',
      say: 'Your router says it opened a door, but nobody outside could come through. Helpers introduce callers.',
      todo: '*To need no help:* restart {theRouter}. If that is not enough, forward {port} to {local} by hand.',
    },
    refused: {
      head: 'Your light is on, with a little help.',
      say: 'Your router understands the wish to open a door, and refuses. Helpers introduce callers.',
      todo: '*To need no help:* allow UPnP for {local} at {router}, or forward {port} to it.',
    },
    udp_blocked: {
      head: relayHead,
      say: 'This network blocks what direct paths need (UDP). Everything goes through helpers, encrypted. Slower, but it works.',
      todo: 'If the network is yours: allow outgoing UDP. Otherwise nothing to do.',
    },
    web_only: {
      head: relayHead,
      say: 'This network lets only web traffic out. Everything goes through helpers on port 443, encrypted.',
      todo: 'If the network is yours: allow outgoing UDP. Otherwise nothing to do.',
    },
    no_helper: {
      head: 'Your light is off.',
      say: '{device} is on the internet, but found nobody to introduce callers.',
      todo: '*To do:* add one person’s link, or ' + openUPnP + '. We keep trying.',
    },
    no_internet: {
      head: 'Only this home.',
      say: 'The internet is not answering. Devices in this home still find each other, and everything you share here still works.',
      todo: '*To do:* look at {theRouter}. We try again by ourselves.',
    },
    captive: {
      head: 'This network wants a sign-in.',
      say: 'It holds back everything until somebody accepts its page.',
      todo: '*To do:* open any web page on {device}’s network and sign in. We try again by ourselves.',
    },
    no_network: {
      head: '{device} has no network.',
      say: 'No cable and no Wi-Fi gave it an address.',
      todo: '*To do:* check the cable, or the Wi-Fi name and password.',
    },
    blocked: {
      head: 'This network lets nothing through.',
      say: 'Neither direct nor relayed traffic leaves it.',
      todo: '*To do:* ask whoever runs it to allow UDP, or TCP to port 443.',
    },
    private: {
      head: 'You keep your light off.',
      say: 'Nobody can reach {device}, and nothing is served. Files, contacts and messages stay.',
      todo: '*To turn the light on:* start {device} with reachability “auto”.',
    },
    no_key: {
      head: '{device} has lost its key.',
      say: 'Without the key it cannot prove who it is, so it serves nobody.',
      todo: '*To do:* restore the key from your copy.',
    },
    checking: {
      head: 'Trying the doors…',
      say: 'This takes a few seconds. What worked before goes on working.',
      todo: '',
    },
  },
  checked: 'Checked {when}',
  notChecked: 'Not checked yet',

  // What stands for a placeholder nothing is known about.
  unknown: {
    device: 'this device', router: 'your router', theRouter: 'your router', outer: 'another one', port: 'its UDP port', local: 'this device',
  },
  // What stands for it otherwise.
  known: {
    theRouter: 'the router at {router}',
    outer: 'another one, where the first has the address {address}',
    port: 'UDP port {port}',
    routerName: '{address} ({name})',
  },
  // Added while a verdict is being checked again.
  doubt: {
    on: 'It did not answer from outside a minute ago. Checking again before we say so.',
    help: 'The last check found less than before. Checking again before we say so.',
  },

  reasons: {
    trying: 'Looking for a direct way.',
    both_random: 'Both routers choose ports at random, so there is no direct way. It would be direct if either of you switched on UPnP.',
    udp_blocked_here: 'This network blocks UDP, so there is no direct way.',
    udp_blocked_there: 'The network around {peer} blocks UDP, so there is no direct way.',
    web_only_there: 'The network around {peer} lets only web traffic out, so there is no direct way.',
    no_common_ip: 'One of you has only IPv4, the other only IPv6.',
    peer_wish: '{peer} takes relayed traffic only.',
    own_wish: 'You asked for relays only.',
    busy: 'This router is busy; the search waits so as not to disturb it.',
    no_direct: 'Every direct way was tried and none answered. The next try follows by itself.',
  },
  noReason: 'There is no direct way at the moment.',

  path: {
    direct: 'direct',
    relay: 'by relay',
    home: 'same home',
    looking: 'looking…',
    off: 'off-line',
    blocked: 'blocked',
  },

  technical: {
    title: 'In technical terms',
    listen: 'Listens at',
    public: 'Seen from outside as',
    mapping: 'NAT mapping',
    filtering: 'NAT filtering',
    router: 'Router',
    methods: 'Asked to open a door',
    method: '{method}: {outcome}',
    doors: 'Doors',
    door: '{transport}, {family}: {state}',
    open: 'open',
    shut: 'not open',
    delta: '{mapping}, {step} each',
    helpers: 'Helpers',
    memory: 'Memory',
    unknown: 'not known',
    noHelpers: 'none',
    helper: '{name} · {transport} · {rtt}',
    helperOff: '{name} · off-line',
  },
  nat: {
    'endpoint-independent': 'endpoint-independent',
    'address-dependent': 'address-dependent',
    'address-and-port-dependent': 'address- and port-dependent',
    none: 'no NAT',
    unknown: 'not known',
  },

  family: { ipv4: 'IPv4', ipv6: 'IPv6' },
  methods: { pcp: 'PCP', 'nat-pmp': 'NAT-PMP', 'upnp-igd2': 'UPnP (IGD 2)', 'upnp-igd1': 'UPnP (IGD 1)' },
  outcomes: {
    pending: 'asked, no answer yet',
    silent: 'no answer',
    refused: 'understood and refused',
    broken: 'answered with nonsense',
    granted: 'opened a door',
    offered: 'would work, not needed',
  },
  proofs: {
    same_address: 'somebody known came in from a new port',
    stranger: 'somebody never contacted came in',
    owners_word: 'you say so',
  },

  how: {
    button: 'Show me how',
    title: 'Switch on UPnP',
    open: 'Open {router} in a new tab.',
    find: 'Find *UPnP*; often under Internet, NAT or Network.',
    findNamed: 'Find *UPnP* of your {name}; often under Internet, NAT or Network.',
    back: 'Come back here; we notice by ourselves.',
    looking: 'Waiting for the door to open. This may take a few minutes.',
    done: 'Done. {head}',
    close: 'Close',
  },

  now: {
    title: 'Right now',
    nothing: 'Nothing moves at the moment.',
    out: '{peer} is fetching {name}',
    in: 'Fetching {name}',
    from: 'from {peer}',
    of: '{done} of {total}',
    checking: 'checking',
    left: 'about {time} left',
    progress: '{name}, {percent} done',
    work: { one: 'Computing a piece for others', other: 'Computing {n} pieces for others' },
    workDone: { one: '{n} piece done · {time} of processor time given', other: '{n} pieces done · {time} of processor time given' },
    relay: 'Passing packets on for others',
    relaySub: 'they cannot reach each other directly',
  },

  people: {
    title: 'People and devices',
    me: 'yours',
    friend: 'friend',
    other: 'can see public things only',
    blocked: 'blocked, sees nothing',
    never: 'not seen yet',
    seen: 'last seen {when}',
    traffic: 'sent {sent} · received {received}',
    address: 'Address',
    way: 'Way',
    wayBetween: 'from {local} to {remote}',
    noWay: 'none at the moment',
    empty: 'Nobody here yet',
    emptySay: 'Send your link to one person you trust. When they accept, their window lights up here.',
  },

  share: {
    button: 'Share my address',
    title: 'Your address',
    say: 'Whoever has it can ask to be your contact. It never changes, wherever your devices are.',
    copy: 'Copy link',
    copied: 'Link copied. It names only this device.',
    notCopied: 'The browser does not allow copying here. Mark the link and copy it by hand.',
    large: 'Show large',
    qr: 'QR code of this device’s link',
    tooLong: 'The link is too long for a QR code. Copy it instead.',
    dialog: 'Let somebody scan this',
    decide: 'They can ask to be your contact. You decide.',
    close: 'Close',
  },

  totals: {
    title: 'Since the start',
    since: 'running for {time}',
    sent: 'Sent',
    received: 'Received',
    relayed: 'Passed on',
    work: 'Work given',
    workOff: 'not lent',
    tasks: { one: '{n} piece', other: '{n} pieces' },
  },

  folders: {
    title: 'Your folders',
    read: 'read: {who}',
    write: 'write: {who}',
    nobody: 'nobody yet',
    who: { everybody: 'everybody', friends: 'friends', me: 'your devices' },
  },

  console: {
    title: 'This console',
    version: 'Porchlight {version}',
    look: 'Look',
    looks: { auto: 'As this device', light: 'Light', dark: 'Dark' },
    logOut: 'Log out',
  },

  away: {
    short: 'Waiting for {device}',
    strip: 'Waiting for {device}. You see how things were at {time}; this page comes back by itself.',
    long: 'Still waiting. Is {device} switched on?',
    first: 'Waiting for the device. This page comes back by itself.',
  },

  gate: {
    step: 'Step {n} of 2',
    hello: 'Hello. Let’s leave a light on.',
    helloSay: 'Two short steps, under a minute. First, keep others in your home from changing things.',
    choose: 'Choose a password',
    rule: 'Any words, 10 letters or more.',
    enough: 'Long enough.',
    more: { one: '{n} more.', other: '{n} more.' },
    show: 'Show it',
    go: 'Go on',
    window: 'Set-up is open to your home network for another {time}, then it closes until the device restarts.',
    phone: '*Open the console on your phone:* scan this at home, on your Wi-Fi.',
    phoneQR: 'QR code of the console’s address',
    friend: 'To let a friend in, send them your link instead.',
    friendOnly: 'To let a friend in, send them your link.',
    home: 'To Home',
    copy: 'Copy my link',
    who: 'Who is there?',
    password: 'Password',
    wrong: 'That is not the password.',
    many: 'Too many tries from this place. Next try in {time}.',
    again: 'You can try again now.',
    closed: 'Set-up has closed.',
    closedSay: 'It was open for a while after the start, for your home network only. Restart the device, then load this page again.',
    trouble: 'The device did not answer as expected. Nothing has changed. Try again in a moment.',
  },
}

export type Words = typeof en
