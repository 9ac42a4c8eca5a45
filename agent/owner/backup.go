package owner

import (
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"

	"porchlight/agent/identity"
)

const (
	// MaxBackup is the size of the largest backup file that is read, in bytes.
	MaxBackup = 1024

	// BackupHeader is the first line of a backup file.
	BackupHeader = "porchlight-owner-key-1"
	saltSize     = 16

	// What sealing costs, and the most that a file may ask of its reader: a
	// 64 MiB router must not be brought down by somebody's file.
	sealMemory    = 16 << 10 // KiB
	sealPasses    = 4
	maxSealMemory = 32 << 10 // KiB
	maxSealPasses = 16
)

// Errors of FromBackup.
var (
	ErrBackup     = errors.New("not the backup of an owner's key")
	ErrPassphrase = errors.New("the backup does not open; check the passphrase")
)

// Backup returns the owner's key as a file, sealed if there is a passphrase.
func Backup(o *identity.Owner, passphrase string) []byte {
	head := BackupHeader + "\nowner " + o.Address().String() + "\n"
	if passphrase == "" {
		return []byte(head + "seed " + encode(o.Seed()) + "\n")
	}
	salt := make([]byte, saltSize)
	rand.Read(salt)
	box := sealer(passphrase, salt, sealMemory, sealPasses)
	// The salt makes the key new each time: the nonce need not be.
	sealed := box.Seal(nil, make([]byte, chacha20poly1305.NonceSize), o.Seed(), []byte(head))
	return fmt.Appendf(nil, "%ssealed %d %d %s %s\n", head, sealMemory, sealPasses, encode(salt), encode(sealed))
}

func encode(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func sealer(passphrase string, salt []byte, memory, passes uint32) cipher.AEAD {
	key := argon2.IDKey([]byte(passphrase), salt, passes, memory, 1, chacha20poly1305.KeySize)
	box, err := chacha20poly1305.New(key)
	if err != nil {
		panic("owner: a key of the right size was refused: " + err.Error())
	}
	return box
}

// FromBackup reads a backup file; the passphrase is asked for only where the
// file is sealed (Sealed).
func FromBackup(file []byte, passphrase string) (*identity.Owner, error) {
	lines, err := backupLines(file)
	if err != nil {
		return nil, err
	}
	named, ok := strings.CutPrefix(lines[1], "owner ")
	owner, err := identity.ParseAddress(named)
	if !ok || err != nil || len(named) != identity.AddressLength || owner.Kind() != identity.KindOwner {
		return nil, fmt.Errorf("%w: it names no owner", ErrBackup)
	}
	seed, err := backupSeed(lines, passphrase)
	if err != nil {
		return nil, err
	}
	o := identity.OwnerFromSeed(seed)
	if o.Address() != owner {
		return nil, fmt.Errorf("%w: it holds another key than it names", ErrBackup)
	}
	return o, nil
}

// Sealed reports whether a backup file asks for a passphrase.
func Sealed(file []byte) bool {
	lines, err := backupLines(file)
	return err == nil && strings.HasPrefix(lines[2], "sealed ")
}

func backupLines(file []byte) ([]string, error) {
	if len(file) > MaxBackup {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrBackup, MaxBackup)
	}
	text := strings.TrimSpace(strings.ReplaceAll(string(file), "\r\n", "\n"))
	lines := strings.Split(text, "\n")
	if len(lines) != 3 || lines[0] != BackupHeader {
		return nil, fmt.Errorf("%w: it does not begin with %q, or has not three lines", ErrBackup, BackupHeader)
	}
	return lines, nil
}

func backupSeed(lines []string, passphrase string) ([]byte, error) {
	if plain, ok := strings.CutPrefix(lines[2], "seed "); ok {
		return decode(plain, ed25519.SeedSize)
	}
	fields := strings.Split(lines[2], " ")
	if len(fields) != 5 || fields[0] != "sealed" {
		return nil, fmt.Errorf("%w: its third line says neither seed nor sealed", ErrBackup)
	}
	memory, err := strconv.ParseUint(fields[1], 10, 32)
	if err != nil || memory < 8 || memory > maxSealMemory {
		return nil, fmt.Errorf("%w: it asks for %.12q KiB of memory, not 8 to %d", ErrBackup, fields[1], maxSealMemory)
	}
	passes, err := strconv.ParseUint(fields[2], 10, 32)
	if err != nil || passes < 1 || passes > maxSealPasses {
		return nil, fmt.Errorf("%w: it asks for %.12q passes, not 1 to %d", ErrBackup, fields[2], maxSealPasses)
	}
	salt, err := decode(fields[3], saltSize)
	if err != nil {
		return nil, err
	}
	sealed, err := decode(fields[4], ed25519.SeedSize+chacha20poly1305.Overhead)
	if err != nil {
		return nil, err
	}
	head := lines[0] + "\n" + lines[1] + "\n"
	box := sealer(passphrase, salt, uint32(memory), uint32(passes))
	seed, err := box.Open(nil, make([]byte, chacha20poly1305.NonceSize), sealed, []byte(head))
	if err != nil {
		return nil, ErrPassphrase
	}
	return seed, nil
}

// decode reads size bytes of base64, written in the one way there is.
func decode(text string, size int) ([]byte, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != size {
		return nil, fmt.Errorf("%w: its third line is damaged", ErrBackup)
	}
	return b, nil
}
