// Sets the chosen look before the first paint. A classic script of its own:
// the content policy forbids inline ones, and modules run too late.
(function () {
  try {
    var look = localStorage.getItem('look')
    if (look === 'light' || look === 'dark') document.documentElement.dataset.theme = look
  } catch (e) { /* storage is switched off: the device's own look stays */ }
})()
