package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"porchlight/nat/relay"
)

const (
	// maxSTUN is how many STUN servers can be set.
	maxSTUN = 4
	// maxPasswordFile is the size of the largest password file, in bytes: the
	// longest password and a line end.
	maxPasswordFile = relay.MaxPassword + 2
)

// Stock returns the TURN server that is set, nil if there is none. It reads the
// password file.
func (c Config) Stock() (*relay.Stock, error) {
	if c.Relay == "" {
		if c.RelayUser != "" || c.RelayPasswordFile != "" {
			return nil, errors.New("relay user and relay password file: they are for a relay; name one, such as turn:192.0.2.1:3478")
		}
		return nil, nil
	}
	if c.RelayUser == "" || c.RelayPasswordFile == "" {
		return nil, errors.New("relay: it needs a relay user and a relay password file")
	}
	password, err := readPassword(c.RelayPasswordFile)
	if err != nil {
		return nil, fmt.Errorf("relay password file: %w", err)
	}
	stock := &relay.Stock{URI: c.Relay, Username: c.RelayUser, Password: password}
	if err := stock.Check(); err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	return stock, nil
}

// readPassword reads a file of one line. It opens nothing that could wait, such
// as a terminal.
func readPassword(path string) (relay.Secret, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is no regular file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxPasswordFile+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxPasswordFile {
		return "", fmt.Errorf("%s is larger than %d bytes", path, maxPasswordFile)
	}
	return relay.Secret(strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")), nil
}

// STUNServers returns the STUN servers that are set.
func (c Config) STUNServers() ([]relay.URI, error) {
	if len(c.STUN) > maxSTUN {
		return nil, fmt.Errorf("stun: %d servers, at most %d", len(c.STUN), maxSTUN)
	}
	var all []relay.URI
	for _, text := range c.STUN {
		u, err := relay.ParseURI(text)
		if err != nil {
			return nil, fmt.Errorf("stun: %w", err)
		}
		if u.Scheme != "stun" {
			return nil, fmt.Errorf("stun: %s is asked by UDP only as stun:HOST:PORT", u)
		}
		all = append(all, u)
	}
	return all, nil
}
