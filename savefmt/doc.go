// Package savefmt holds the bytes of xenferry and nothing but bytes: the
// frames that travel between its two ends, the records of a guest's state, the
// three layers of a stock save file (Reader, Writer, Verify), and the container
// that holds one in compressed blocks (Packer, Unpack). SPEC.md describes the
// formats of files. The package opens no file and no connection.
package savefmt
