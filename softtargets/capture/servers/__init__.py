"""Teachers behind servers: the likeliest ids of a prompt's tokens, asked for over HTTP."""
