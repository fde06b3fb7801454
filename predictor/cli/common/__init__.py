"""What commands share: options for the columns of a request, how answers print, where training is recorded."""
