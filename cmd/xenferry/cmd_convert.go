package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/xenferry/xenferry/savefmt"
	"github.com/xenferry/xenferry/xen"
)

func convertCommand() *cli.Command {
	return &cli.Command{
		Name:      "convert",
		Usage:     "turn a stock save file into a compressed container, or back",
		ArgsUsage: "<from> <to>",
		Description: "What is converted is verified on the way; <to> gets its name only when all was\n" +
			"right. The way back gives the stock file byte for byte. Both may be -, for\n" +
			"standard input and output: xenferry convert db1.xfs - | xl restore /dev/stdin",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "to", Usage: "`format` of <to>: stock or container; default: what <from> is not"},
			&cli.StringFlag{Name: "codec", Value: savefmt.BlockS2.String(), Usage: codecUsage},
			jsonFlag,
		},
		OnUsageError: usageError,
		Action:       convert,
	}
}

// The formats that convert can write.
const (
	formatStock     = "stock"
	formatContainer = "container"
)

func convert(c *cli.Context) error {
	if c.NArg() != 2 {
		return usagef("convert takes <from> <to>, not %d arguments (see xenferry convert --help)", c.NArg())
	}
	codec, err := savefmt.ParseBlockCodec(c.String("codec"))
	if err != nil {
		return usagef("--codec: %v", err)
	}
	format := c.String("to")
	if format != "" && format != formatStock && format != formatContainer {
		return usagef("--to %q: it is %s or %s", format, formatStock, formatContainer)
	}
	begun := time.Now()
	report, err := convertSaved(c, format, codec)
	report.Total = time.Since(begun)
	if err != nil {
		report.Error, report.Code = err.Error(), xen.CodeOf(err)
	}
	return tellConverted(c, report, err)
}

// convertReport is what a conversion did, for --json.
type convertReport struct {
	Summary *savefmt.Summary `json:"summary,omitempty"`
	Written int64            `json:"written"`
	Total   time.Duration    `json:"total_ns"`
	Error   string           `json:"error,omitempty"`
	Code    xen.Code         `json:"code,omitempty"`
}

// convertSaved opens both sides and converts. The report is never nil.
func convertSaved(c *cli.Context, format string, codec savefmt.BlockCodec) (*convertReport, error) {
	report := &convertReport{}
	in, err := openInput(c.Context, c.Args().Get(0))
	if err != nil {
		return report, err
	}
	defer in.close()
	if in.sameDevice(c.Args().Get(1)) {
		return report, usagef("%s is read and written at the same time: convert to another device, or to a file", c.Args().Get(0))
	}
	to, discard, err := openTarget(c.Context, c.Args().Get(1))
	if err != nil {
		return report, err
	}
	defer discard()
	report.Summary, report.Written, err = convertTo(to, in.saved(), format, codec)
	if err == nil {
		err = to.Commit()
	}
	if err != nil && c.Context.Err() != nil {
		err = context.Cause(c.Context) // that the target was closed is no news
	}
	return report, err
}

// tellConverted tells how it went. That it could not be told does not undo it.
func tellConverted(c *cli.Context, report *convertReport, err error) error {
	from, name := c.Args().Get(0), c.Args().Get(1)
	out := tellAside(c, name)
	if c.Bool(jsonFlag.Name) {
		warnUntold(encodeEnd(out, "convert", report))
	}
	if err != nil {
		return fmt.Errorf("convert %s: %w", from, err)
	}
	if c.Bool(jsonFlag.Name) {
		return nil
	}
	_, outputErr := fmt.Fprintf(out, "%s: %s as %s, %s written to %s in %s\n", from, bytesText(uint64(report.Summary.Bytes)), report.Summary.Format,
		bytesText(uint64(report.Written)), name, report.Total.Round(time.Millisecond))
	warnUntold(outputErr)
	return nil
}

// convertTo verifies a saved guest while it is written in another format.
func convertTo(to io.Writer, in io.Reader, format string, codec savefmt.BlockCodec) (*savefmt.Summary, int64, error) {
	plain, box, err := savefmt.Unpack(in)
	if err != nil {
		return nil, 0, err
	}
	if box != nil {
		defer box.Close()
	}
	if format == "" {
		format = formatContainer
		if box != nil {
			format = formatStock
		}
	}
	if format == formatStock {
		sum, err := savefmt.VerifyCopy(plain, to)
		return sum, sum.Bytes, err
	}
	packer := savefmt.NewPacker(to, codec)
	sum, err := savefmt.VerifyCopy(plain, packer)
	if err != nil {
		packer.Abort()
		return sum, 0, err
	}
	err = packer.Close()
	return sum, packer.Written(), err
}
