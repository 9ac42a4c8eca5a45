package owner

// For the tests in package owner_test.
var (
	SignRoster = signRoster
	WordList   = wordList
)

// Limits that are not exported.
const (
	MaxRequest     = maxRequest
	MaxUpdate      = maxUpdate
	AskedPerMinute = askedPerMinute
	MaxCallers     = maxCallers
	MaxSealMemory  = maxSealMemory
	MaxSealPasses  = maxSealPasses
	ChangesPerHour = changesPerHour
)
