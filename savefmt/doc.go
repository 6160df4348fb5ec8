// Package savefmt holds the bytes of xenferry and nothing but bytes: the
// frames that travel between its two ends, the records of a guest's state and
// the streams of stock Xen. It opens no file and no connection.
package savefmt
