package bencode

import "strconv"

// AppendInt appends an integer to b.
func AppendInt(b []byte, i int64) []byte {
	b = append(b, 'i')
	b = strconv.AppendInt(b, i, 10)
	return append(b, 'e')
}

// AppendBytes appends a byte string to b.
func AppendBytes(b, s []byte) []byte {
	b = strconv.AppendInt(b, int64(len(s)), 10)
	b = append(b, ':')
	return append(b, s...)
}

// AppendString appends a byte string to b; it also writes keys. A dictionary
// is 'd', its keys and values with the keys in ascending order, and 'e'; a list
// is 'l', its values, and 'e'.
func AppendString(b []byte, s string) []byte {
	b = strconv.AppendInt(b, int64(len(s)), 10)
	b = append(b, ':')
	return append(b, s...)
}
