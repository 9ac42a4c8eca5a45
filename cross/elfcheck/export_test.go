package elfcheck

// CountOpcodes is countOpcodes for the tests of this package.
var CountOpcodes = countOpcodes
